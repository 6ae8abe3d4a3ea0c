-- Every connection: dates mean UTC.
SET time_zone = '+00:00';

-- A certificate was issued. Times are seconds since 1970 (UTC). The serial is the hex that
-- `openssl x509 -noout -serial` prints, with 00 in front when its first digit is 8 or more.
INSERT INTO certificates(issuer, serial, not_before, not_after, sha256, holder, medium, actor)
VALUES ('demo', x'00F12E', UNIX_TIMESTAMP('2026-11-22'), UNIX_TIMESTAMP('2027-11-22'),
  x'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08', 'EMP-1042', 'token', 'issuing-service');

-- The serial from the hex, with or without colons.
INSERT INTO certificates(issuer, serial, not_before, not_after, holder)
SELECT 'demo', UNHEX(CONCAT(CASE WHEN LENGTH(x) % 2 THEN '0' WHEN x = '' OR x >= '8' THEN '00' ELSE '' END, x)),
  UNIX_TIMESTAMP('2026-11-22'), UNIX_TIMESTAMP('2027-11-22'), 'EMP-1042'
FROM (SELECT TRIM(LEADING '0' FROM REPLACE('A1:B2:C3', ':', '')) AS x) AS hex;

-- A renewal that starts later is known, and can be revoked, from now on.
INSERT INTO certificates(issuer, serial, not_before, not_after, renews, holder)
VALUES ('demo', x'4D5E', UNIX_TIMESTAMP('2027-11-15'), UNIX_TIMESTAMP('2028-11-15'), x'00F12E', 'EMP-1042');

-- The precertificate came first (sha256 NULL): set the hash when the certificate is there, once.
UPDATE certificates SET sha256 = x'60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752'
WHERE issuer = 'demo' AND serial = x'4D5E';

-- Revoke. actor and received_at go into the event. COALESCE keeps the start of a hold that becomes final.
-- One changed row is success; none: unknown serial, or revoked for good already.
UPDATE certificates SET status = 'revoked', revoked_at = COALESCE(revoked_at, UNIX_TIMESTAMP()), reason = 1,
  invalidity_date = UNIX_TIMESTAMP('2026-11-20'), actor = 'ra-portal', received_at = UNIX_TIMESTAMP()
WHERE issuer = 'demo' AND serial = x'00F12E' AND (status = 'good' OR reason = 6);

-- Put on hold, and release.
UPDATE certificates SET status = 'revoked', revoked_at = UNIX_TIMESTAMP(), reason = 6, actor = 'helpdesk'
WHERE issuer = 'demo' AND serial = x'4D5E' AND status = 'good';
UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL, invalidity_date = NULL, actor = 'helpdesk'
WHERE issuer = 'demo' AND serial = x'4D5E' AND reason = 6;

-- Correct a revocation that stands: only with actor, which makes it an audited one.
UPDATE certificates SET reason = 4, invalidity_date = NULL, actor = 'audit office'
WHERE issuer = 'demo' AND serial = x'00F12E' AND status = 'revoked';

-- Who did what when.
SELECT FROM_UNIXTIME(recorded_at) AS at, kind, actor, events.before, events.after
FROM events WHERE issuer = 'demo' AND serial = x'00F12E' ORDER BY id;

-- After a backup was restored: have every reader load everything anew (`jarchy database restored`).
UPDATE meta SET epoch = epoch + 1;

-- Trim the change log to the last week (`jarchy database trim`); the events stay.
DELETE FROM changes WHERE seq < (SELECT seq FROM (SELECT MIN(seq) AS seq FROM changes
  WHERE at >= UNIX_TIMESTAMP() - 7 * 86400) AS kept);
