-- Since a CA may publish one CRL for its users' certificates and one for those of CAs (RFC 5280 5.2.5), the
-- database says which of the two a certificate is. Of those that were there before nobody knows it: they stand
-- in both lists until somebody says it (`jarchy add` with the certificate, or an UPDATE).

ALTER TABLE certificates ADD COLUMN
  ca INTEGER                      -- 1 if it is a CA's (basicConstraints), 0 if not, NULL if nobody says; set once
    CONSTRAINT "ca is 1 for a certificate of a CA, 0 for any other, or NULL" CHECK (ca IN (0, 1));

DROP TRIGGER certificates_update;

CREATE TRIGGER certificates_update AFTER UPDATE ON certificates
-- Not for what this trigger itself writes below, so that it ends with recursive_triggers on as well.
WHEN NEW.actor IS NOT NULL OR NEW.received_at IS NOT NULL
  OR NEW.not_before IS NOT OLD.not_before OR NEW.not_after IS NOT OLD.not_after
  OR NEW.sha256 IS NOT OLD.sha256 OR NEW.holder IS NOT OLD.holder OR NEW.medium IS NOT OLD.medium
  OR NEW.renews IS NOT OLD.renews OR NEW.shard IS NOT OLD.shard OR NEW.ca IS NOT OLD.ca
  OR NEW.status IS NOT OLD.status OR NEW.revoked_at IS NOT OLD.revoked_at
  OR NEW.reason IS NOT OLD.reason OR NEW.invalidity_date IS NOT OLD.invalidity_date
BEGIN
  SELECT RAISE(ABORT, 'not_before and not_after never change: a certificate with another validity is another certificate, with a serial of its own')
  WHERE NEW.not_before IS NOT OLD.not_before OR NEW.not_after IS NOT OLD.not_after;
  SELECT RAISE(ABORT, 'sha256 is set once, from NULL: another certificate needs a serial of its own')
  WHERE OLD.sha256 IS NOT NULL AND NEW.sha256 IS NOT OLD.sha256;
  SELECT RAISE(ABORT, 'shard is set once, from NULL: the certificate names its CRL for life')
  WHERE OLD.shard IS NOT NULL AND NEW.shard IS NOT OLD.shard;
  SELECT RAISE(ABORT, 'ca is set once, from NULL: basicConstraints of a certificate never change')
  WHERE OLD.ca IS NOT NULL AND NEW.ca IS NOT OLD.ca;
  SELECT RAISE(ABORT, 'a revoked certificate never becomes good again, only one on hold (reason 6) is released: issue a new certificate')
  WHERE OLD.status = 'revoked' AND NEW.status = 'good' AND OLD.reason IS NOT 6;
  SELECT RAISE(ABORT, 'a final revocation cannot become a hold: leave reason 6 to certificates that are good')
  WHERE OLD.status = 'revoked' AND NEW.status = 'revoked' AND OLD.reason IS NOT 6 AND NEW.reason IS 6;
  SELECT RAISE(ABORT, 'a hold that becomes final keeps revoked_at, the start of the hold: leave revoked_at out, or set actor in the same UPDATE to date it otherwise')
  WHERE OLD.status = 'revoked' AND NEW.status = 'revoked' AND OLD.reason IS 6 AND NEW.reason IS NOT 6
    AND NEW.revoked_at IS NOT OLD.revoked_at AND NEW.actor IS NULL;
  SELECT RAISE(ABORT, 'the certificate is revoked already: to change its reason or dates set actor in the same UPDATE, so that it is known who wanted it')
  WHERE OLD.status = 'revoked' AND NEW.status = 'revoked' AND NEW.actor IS NULL
    AND NOT (OLD.reason IS 6 AND NEW.reason IS NOT 6)
    AND (NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
      OR NEW.invalidity_date IS NOT OLD.invalidity_date);

  INSERT INTO events(issuer, serial, kind, actor, received_at, effective_at, after)
  SELECT NEW.issuer, NEW.serial, 'hash', NEW.actor, NEW.received_at, unixepoch(), json_object('sha256', lower(hex(NEW.sha256)))
  WHERE NEW.sha256 IS NOT OLD.sha256;
  INSERT INTO events(issuer, serial, kind, actor, received_at, effective_at, before, after)
  SELECT NEW.issuer, NEW.serial,
    CASE WHEN OLD.status = 'revoked' AND NEW.status = 'good' THEN 'release'
         WHEN OLD.status = 'good' AND NEW.status = 'revoked' THEN iif(NEW.reason IS 6, 'hold', 'revoke')
         WHEN OLD.reason IS 6 AND NEW.reason IS NOT 6 THEN 'revoke'
         ELSE 'update' END,
    NEW.actor, NEW.received_at,
    iif(OLD.status = 'good' AND NEW.status = 'revoked', NEW.revoked_at, unixepoch()),
    json_object('status', OLD.status, 'revoked_at', OLD.revoked_at, 'reason', OLD.reason,
      'invalidity_date', OLD.invalidity_date, 'holder', OLD.holder, 'medium', OLD.medium,
      'renews', iif(OLD.renews IS NULL, NULL, hex(OLD.renews)), 'shard', OLD.shard, 'ca', OLD.ca),
    json_object('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason,
      'invalidity_date', NEW.invalidity_date, 'holder', NEW.holder, 'medium', NEW.medium,
      'renews', iif(NEW.renews IS NULL, NULL, hex(NEW.renews)), 'shard', NEW.shard, 'ca', NEW.ca)
  WHERE NEW.status IS NOT OLD.status OR NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
    OR NEW.invalidity_date IS NOT OLD.invalidity_date OR NEW.holder IS NOT OLD.holder
    OR NEW.medium IS NOT OLD.medium OR NEW.renews IS NOT OLD.renews OR NEW.shard IS NOT OLD.shard
    OR NEW.ca IS NOT OLD.ca;
  -- Holder, medium and renews are nothing that relying parties see.
  INSERT INTO changes(issuer, serial) SELECT NEW.issuer, NEW.serial
  WHERE NEW.status IS NOT OLD.status OR NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
    OR NEW.invalidity_date IS NOT OLD.invalidity_date OR NEW.sha256 IS NOT OLD.sha256 OR NEW.shard IS NOT OLD.shard
    OR NEW.ca IS NOT OLD.ca;
  UPDATE certificates SET actor = NULL, received_at = NULL,
    changed_at = (SELECT recorded_at FROM events
      WHERE issuer = NEW.issuer AND serial = NEW.serial ORDER BY id DESC LIMIT 1),
    released_at = iif(OLD.status = 'revoked' AND NEW.status = 'good', unixepoch(), OLD.released_at)
  WHERE issuer = NEW.issuer AND serial = NEW.serial;
END;
