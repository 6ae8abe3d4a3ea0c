-- A certificate was issued. Times are seconds since 1970 (UTC). The serial is the hex that
-- `openssl x509 -noout -serial` prints, with 00 in front when its first digit is 8 or more.
INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, sha256, holder, medium, actor)
VALUES ('demo', '\x00F12E', extract(epoch FROM timestamptz '2026-11-22Z'), extract(epoch FROM timestamptz '2027-11-22Z'),
  '\x9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08', 'EMP-1042', 'token', 'issuing-service');

-- The serial from the hex, with or without colons.
INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, holder)
SELECT 'demo', decode(CASE WHEN length(x) % 2 = 1 THEN '0' WHEN x = '' OR x >= '8' THEN '00' ELSE '' END || x, 'hex'),
  extract(epoch FROM timestamptz '2026-11-22Z'), extract(epoch FROM timestamptz '2027-11-22Z'), 'EMP-1042'
FROM (SELECT ltrim(replace('A1:B2:C3', ':', ''), '0') COLLATE "C" AS x) AS hex;

-- A renewal that starts later is known, and can be revoked, from now on.
INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, renews, holder)
VALUES ('demo', '\x4D5E', extract(epoch FROM timestamptz '2027-11-15Z'), extract(epoch FROM timestamptz '2028-11-15Z'),
  '\x00F12E', 'EMP-1042');

-- The precertificate came first (sha256 NULL): set the hash when the certificate is there, once.
UPDATE jarchy.certificates SET sha256 = '\x60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752'
WHERE issuer = 'demo' AND serial = '\x4D5E';

-- Revoke. actor and received_at go into the event. coalesce keeps the start of a hold that becomes final.
-- One changed row is success; none: unknown serial, or revoked for good already.
UPDATE jarchy.certificates SET status = 'revoked', revoked_at = coalesce(revoked_at, jarchy.now()), reason = 1,
  invalidity_date = extract(epoch FROM timestamptz '2026-11-20Z'), actor = 'ra-portal', received_at = jarchy.now()
WHERE issuer = 'demo' AND serial = '\x00F12E' AND (status = 'good' OR reason = 6);

-- Put on hold, and release.
UPDATE jarchy.certificates SET status = 'revoked', revoked_at = jarchy.now(), reason = 6, actor = 'helpdesk'
WHERE issuer = 'demo' AND serial = '\x4D5E' AND status = 'good';
UPDATE jarchy.certificates SET status = 'good', revoked_at = NULL, reason = NULL, invalidity_date = NULL, actor = 'helpdesk'
WHERE issuer = 'demo' AND serial = '\x4D5E' AND reason = 6;

-- Correct a revocation that stands: only with actor, which makes it an audited one.
UPDATE jarchy.certificates SET reason = 4, invalidity_date = NULL, actor = 'audit office'
WHERE issuer = 'demo' AND serial = '\x00F12E' AND status = 'revoked';

-- Who did what when.
SELECT to_timestamp(recorded_at) AS at, kind, actor, before, after
FROM jarchy.events WHERE issuer = 'demo' AND serial = '\x00F12E' ORDER BY id;

-- After a backup was restored: have every reader load everything anew (`jarchy database restored`).
UPDATE jarchy.meta SET epoch = epoch + 1;

-- Trim the change log to the last week (`jarchy database trim`); the events stay.
DELETE FROM jarchy.changes WHERE seq < (SELECT min(seq) FROM jarchy.changes WHERE at >= jarchy.now() - 7 * 86400);
