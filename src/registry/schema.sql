-- Jarchy's issuance database. What stands inside the parentheses and triggers is kept by SQLite, so
-- `.schema` in the sqlite3 shell shows it to whoever writes here with SQL of their own.
--
-- How it keeps its truth, whatever the writer's settings:
-- * Rows are judged after they are written (AFTER triggers), when SQLite has put defaults in place of the
--   NULLs of an `OR REPLACE`; RAISE(ABORT) then undoes the whole statement.
-- * `OR REPLACE` removes the old row without any DELETE trigger unless recursive_triggers is on; so what is
--   there already is looked for BEFORE INSERT.
-- * Triggers stand where foreign keys might: those are off in every connection that does not ask for them.
-- * Nothing newer than SQLite 3.38 is used (STRICT, unixepoch, json_object).

CREATE TABLE meta(
  -- One row about this database itself.
  one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  -- Made at random when the database was; readers know by it that a file was put in another's place.
  identity TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))) CHECK (length(identity) = 32),
  -- Raise it by one after a backup was restored: readers then load everything anew.
  epoch INTEGER NOT NULL DEFAULT 1
) STRICT;

INSERT INTO meta DEFAULT VALUES;

CREATE TRIGGER meta_insert BEFORE INSERT ON meta BEGIN
  SELECT RAISE(ABORT, 'meta has its one row already: UPDATE meta SET epoch = epoch + 1 is all it needs');
END;

CREATE TRIGGER meta_update AFTER UPDATE ON meta BEGIN
  SELECT RAISE(ABORT, 'the identity of a database never changes: leave identity out of the UPDATE')
  WHERE NEW.one IS NOT OLD.one OR NEW.identity IS NOT OLD.identity;
  SELECT RAISE(ABORT, 'epoch only grows: UPDATE meta SET epoch = epoch + 1') WHERE NEW.epoch < OLD.epoch;
END;

CREATE TRIGGER meta_delete BEFORE DELETE ON meta BEGIN
  SELECT RAISE(ABORT, 'the row of meta stays: it tells readers which database this is');
END;

CREATE TABLE issuers(
  -- A CA name and key; a CA with a new key is another issuer.
  -- The name by which URLs and jarchy.toml call it.
  name TEXT NOT NULL PRIMARY KEY
    CONSTRAINT "an issuer's name is made of a-z, 0-9 and _, not _ first"
    CHECK (name GLOB '[a-z0-9]*' AND name NOT GLOB '*[^a-z0-9_]*'),
  -- The CA's certificate in DER.
  certificate BLOB NOT NULL
    CONSTRAINT "certificate holds the CA's certificate in DER, not in PEM"
    CHECK (substr(certificate, 1, 1) = x'30'),
  -- 1 for an old CA that really issued negative serial numbers. 0 lets the database refuse serials whose
  -- first octet is 80 or more: nearly always a positive one whose sign octet 00 was forgotten.
  negative_serials INTEGER NOT NULL DEFAULT 0 CHECK (negative_serials IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER issuers_insert BEFORE INSERT ON issuers BEGIN
  SELECT RAISE(ABORT, 'an issuer of this name is there already and stays as it is: register another CA or key under another name')
  WHERE EXISTS (SELECT 1 FROM issuers WHERE name = NEW.name);
  SELECT RAISE(ABORT, 'this CA certificate is registered already under another name: use that one')
  WHERE EXISTS (SELECT 1 FROM issuers WHERE certificate = NEW.certificate);
END;

CREATE TRIGGER issuers_update BEFORE UPDATE OF name, certificate ON issuers
WHEN NEW.name IS NOT OLD.name OR NEW.certificate IS NOT OLD.certificate BEGIN
  SELECT RAISE(ABORT, 'name and certificate of an issuer never change: INSERT another issuer instead');
END;

CREATE TRIGGER issuers_delete BEFORE DELETE ON issuers BEGIN
  SELECT RAISE(ABORT, 'issuers are never deleted: what they issued must stay answerable; take the issuer out of jarchy.toml instead');
END;

CREATE TABLE certificates(
  -- Every certificate that was issued, whatever became of it. Times are seconds since 1970-01-01 UTC.
  issuer TEXT NOT NULL,           -- issuers.name; never changes
  -- Content octets of the certificate's serialNumber INTEGER: 1 to 20, in their shortest form, a first
  -- octet of 80 or more preceded by the sign octet 00; never changes. From the hex that
  -- `openssl x509 -noout -serial` prints, with SQLite 3.41 or newer:
  --   SELECT unhex(CASE WHEN length(x) % 2 THEN '0' WHEN x = '' OR x >= '8' THEN '00' ELSE '' END || x)
  --   FROM (SELECT ltrim(replace('F1:2E', ':', ''), '0') AS x);
  -- With any SQLite as a literal, 00 put in front when the first digit is 8 or more: x'00F12E'.
  serial BLOB NOT NULL
    CONSTRAINT "serial is 1 to 20 octets: the INTEGER's content, x'00F12E' for F12E"
    CHECK (length(serial) BETWEEN 1 AND 20)
    CONSTRAINT "serial is the shortest form: no 00 before an octet below 80, no FF before one of 80 or more"
    CHECK (length(serial) = 1
      OR NOT ((substr(serial, 1, 1) = x'00' AND substr(serial, 2, 1) < x'80')
           OR (substr(serial, 1, 1) = x'ff' AND substr(serial, 2, 1) >= x'80'))),
  not_before INTEGER NOT NULL,    -- as in the certificate; may lie ahead; never changes
  not_after INTEGER NOT NULL,     -- as in the certificate; never changes
  -- SHA-256 of the certificate's DER. NULL while only the precertificate exists; set once.
  sha256 BLOB
    CONSTRAINT "sha256 is the 32 octets of the hash, not its hex" CHECK (length(sha256) = 32),
  holder TEXT                     -- the CA's own reference to the holder: its certificates are found by it
    CONSTRAINT "holder is a reference or NULL, not an empty text" CHECK (holder <> ''),
  medium TEXT                     -- where the key lives
    CONSTRAINT "medium is token, cloud, other or NULL" CHECK (medium IN ('token', 'cloud', 'other')),
  renews BLOB                     -- the serial of the certificate, of the same issuer, that this one follows
    CONSTRAINT "renews is a serial like serial itself" CHECK (length(renews) BETWEEN 1 AND 20),
  shard INTEGER                   -- which shard of the CRL its CRLDistributionPoints name; set once
    CONSTRAINT "shard is 0 or more" CHECK (shard >= 0),
  status TEXT NOT NULL DEFAULT 'good'
    CONSTRAINT "status is good or revoked; on hold is revoked with reason 6" CHECK (status IN ('good', 'revoked')),
  -- revocationDate. A hold that becomes final keeps the hold's start. More than 5 minutes ahead it counts
  -- from when it was committed.
  revoked_at INTEGER,
  -- RFC 5280 5.3.1: 0 or NULL none given, 1 keyCompromise, 2 cACompromise, 3 affiliationChanged,
  -- 4 superseded, 5 cessationOfOperation, 6 certificateHold, 9 privilegeWithdrawn, 10 aACompromise.
  reason INTEGER
    CONSTRAINT "reason is one of 0 to 6, 9, 10: 7 means nothing and 8 is for delta CRLs only (RFC 5280 5.3.1)"
    CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 9, 10)),
  invalidity_date INTEGER,        -- since when the key is thought to be in other hands (RFC 5280 5.3.2)
  released_at INTEGER,            -- when a hold was last lifted; kept by the database, leave it out
  changed_at INTEGER NOT NULL DEFAULT (unixepoch()), -- when the row last changed; kept by the database, leave it out
  -- Who wants this INSERT or UPDATE, and when the request came in. Set them in the same statement; they go
  -- into its event and are NULL again afterwards. An UPDATE that changes why or since when a certificate is
  -- revoked must set actor: that is what makes it an audited one.
  actor TEXT CONSTRAINT "actor is who wants the change, not an empty text" CHECK (actor <> ''),
  received_at INTEGER,
  PRIMARY KEY (issuer, serial),
  CONSTRAINT "not_after lies before not_before: are they swapped?" CHECK (not_before <= not_after),
  CONSTRAINT "times are seconds since 1970-01-01 UTC: this one is beyond the year 9999, are they milliseconds?"
    CHECK (not_before BETWEEN -62167219200 AND 253402300799 AND not_after BETWEEN -62167219200 AND 253402300799
      AND coalesce(revoked_at, 0) BETWEEN 0 AND 253402300799
      AND coalesce(invalidity_date, 0) BETWEEN -62167219200 AND 253402300799
      AND coalesce(received_at, 0) BETWEEN 0 AND 253402300799),
  CONSTRAINT "a revoked certificate needs revoked_at: unixepoch() is now"
    CHECK (status <> 'revoked' OR revoked_at IS NOT NULL),
  CONSTRAINT "a good certificate has no revocation: set revoked_at, reason and invalidity_date to NULL"
    CHECK (status <> 'good' OR (revoked_at IS NULL AND reason IS NULL AND invalidity_date IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX certificates_by_holder ON certificates(holder) WHERE holder IS NOT NULL;

CREATE TABLE events(
  -- What happened to certificates, written by the triggers of that table, never changed.
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  issuer TEXT NOT NULL,
  serial BLOB NOT NULL,
  -- issue, hash (the final certificate's became known), revoke, hold, release, update (anything else)
  kind TEXT NOT NULL CHECK (kind IN ('issue', 'hash', 'revoke', 'hold', 'release', 'update')),
  actor TEXT,                     -- who wanted it; NULL where the writer did not say
  received_at INTEGER,            -- when the request came in; NULL where the writer did not say
  effective_at INTEGER NOT NULL,  -- from when it counts: revoked_at of a revocation, else recorded_at
  recorded_at INTEGER NOT NULL DEFAULT (unixepoch()),
  before TEXT,                    -- JSON of what may change in a row, as it was and as it became; hex for octets
  after TEXT
) STRICT;

CREATE INDEX events_of_certificate ON events(issuer, serial, id);

CREATE TABLE changes(
  -- What readers have to read again: names a certificate, says nothing of it. Written by triggers. A row
  -- that is added here by hand makes the server read that certificate again, which does no harm.
  --
  -- May be trimmed from its oldest row on, never its newest: readers notice a gap at the old end and load
  -- everything anew, but they could not notice one in the middle; and the numbers must go on from the newest.
  --   DELETE FROM changes WHERE seq < (SELECT min(seq) FROM changes WHERE at >= unixepoch() - 7 * 86400);
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  issuer TEXT NOT NULL,
  serial BLOB NOT NULL,
  at INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;

CREATE TRIGGER certificates_before_insert BEFORE INSERT ON certificates BEGIN
  SELECT RAISE(ABORT, 'this issuer has issued this serial already: change its row by UPDATE, never by INSERT OR REPLACE')
  WHERE EXISTS (SELECT 1 FROM certificates WHERE issuer = NEW.issuer AND serial = NEW.serial);
  SELECT RAISE(ABORT, 'unknown issuer: INSERT INTO issuers(name, certificate) comes first, or use a name that is there (SELECT name FROM issuers)')
  WHERE NOT EXISTS (SELECT 1 FROM issuers WHERE name = NEW.issuer);
  SELECT RAISE(ABORT, 'a serial that begins with an octet of 80 or more is a negative number: put the sign octet 00 before it (x''00F12E'' for F12E)')
  WHERE typeof(NEW.serial) = 'blob' AND substr(NEW.serial, 1, 1) >= x'80'
    AND NOT EXISTS (SELECT 1 FROM issuers WHERE name = NEW.issuer AND negative_serials = 1);
END;

CREATE TRIGGER certificates_insert AFTER INSERT ON certificates BEGIN
  -- unixepoch() stands still while one statement runs.
  SELECT RAISE(ABORT, 'released_at and changed_at are kept by the database: leave them out')
  WHERE NEW.released_at IS NOT NULL OR NEW.changed_at <> unixepoch();

  INSERT INTO events(issuer, serial, kind, actor, received_at, effective_at)
  VALUES (NEW.issuer, NEW.serial, 'issue', NEW.actor, NEW.received_at, unixepoch());
  INSERT INTO events(issuer, serial, kind, actor, received_at, effective_at, after)
  SELECT NEW.issuer, NEW.serial, iif(NEW.reason IS 6, 'hold', 'revoke'), NEW.actor, NEW.received_at, NEW.revoked_at,
    json_object('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason, 'invalidity_date', NEW.invalidity_date)
  WHERE NEW.status = 'revoked';
  INSERT INTO changes(issuer, serial) VALUES (NEW.issuer, NEW.serial);
  UPDATE certificates SET actor = NULL, received_at = NULL
  WHERE issuer = NEW.issuer AND serial = NEW.serial AND (actor IS NOT NULL OR received_at IS NOT NULL);
END;

CREATE TRIGGER certificates_rename BEFORE UPDATE OF issuer, serial ON certificates
WHEN NEW.issuer IS NOT OLD.issuer OR NEW.serial IS NOT OLD.serial BEGIN
  SELECT RAISE(ABORT, 'issuer and serial of a certificate never change: INSERT the other certificate as a row of its own');
END;

CREATE TRIGGER certificates_update AFTER UPDATE ON certificates
-- Not for what this trigger itself writes below, so that it ends with recursive_triggers on as well.
WHEN NEW.actor IS NOT NULL OR NEW.received_at IS NOT NULL
  OR NEW.not_before IS NOT OLD.not_before OR NEW.not_after IS NOT OLD.not_after
  OR NEW.sha256 IS NOT OLD.sha256 OR NEW.holder IS NOT OLD.holder OR NEW.medium IS NOT OLD.medium
  OR NEW.renews IS NOT OLD.renews OR NEW.shard IS NOT OLD.shard OR NEW.status IS NOT OLD.status
  OR NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
  OR NEW.invalidity_date IS NOT OLD.invalidity_date
BEGIN
  SELECT RAISE(ABORT, 'not_before and not_after never change: a certificate with another validity is another certificate, with a serial of its own')
  WHERE NEW.not_before IS NOT OLD.not_before OR NEW.not_after IS NOT OLD.not_after;
  SELECT RAISE(ABORT, 'sha256 is set once, from NULL: another certificate needs a serial of its own')
  WHERE OLD.sha256 IS NOT NULL AND NEW.sha256 IS NOT OLD.sha256;
  SELECT RAISE(ABORT, 'shard is set once, from NULL: the certificate names its CRL for life')
  WHERE OLD.shard IS NOT NULL AND NEW.shard IS NOT OLD.shard;
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
      'renews', iif(OLD.renews IS NULL, NULL, hex(OLD.renews)), 'shard', OLD.shard),
    json_object('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason,
      'invalidity_date', NEW.invalidity_date, 'holder', NEW.holder, 'medium', NEW.medium,
      'renews', iif(NEW.renews IS NULL, NULL, hex(NEW.renews)), 'shard', NEW.shard)
  WHERE NEW.status IS NOT OLD.status OR NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
    OR NEW.invalidity_date IS NOT OLD.invalidity_date OR NEW.holder IS NOT OLD.holder
    OR NEW.medium IS NOT OLD.medium OR NEW.renews IS NOT OLD.renews OR NEW.shard IS NOT OLD.shard;
  -- Holder, medium and renews are nothing that relying parties see.
  INSERT INTO changes(issuer, serial) SELECT NEW.issuer, NEW.serial
  WHERE NEW.status IS NOT OLD.status OR NEW.revoked_at IS NOT OLD.revoked_at OR NEW.reason IS NOT OLD.reason
    OR NEW.invalidity_date IS NOT OLD.invalidity_date OR NEW.sha256 IS NOT OLD.sha256 OR NEW.shard IS NOT OLD.shard;
  UPDATE certificates SET actor = NULL, received_at = NULL,
    changed_at = (SELECT recorded_at FROM events
      WHERE issuer = NEW.issuer AND serial = NEW.serial ORDER BY id DESC LIMIT 1),
    released_at = iif(OLD.status = 'revoked' AND NEW.status = 'good', unixepoch(), OLD.released_at)
  WHERE issuer = NEW.issuer AND serial = NEW.serial;
END;

CREATE TRIGGER certificates_kept AFTER UPDATE OF changed_at, released_at ON certificates
-- Both follow from the events; whoever writes something else into them is wrong.
WHEN NEW.changed_at IS NOT (SELECT recorded_at FROM events
    WHERE issuer = NEW.issuer AND serial = NEW.serial ORDER BY id DESC LIMIT 1)
  OR NEW.released_at IS NOT (SELECT recorded_at FROM events
    WHERE issuer = NEW.issuer AND serial = NEW.serial AND kind = 'release' ORDER BY id DESC LIMIT 1)
BEGIN
  SELECT RAISE(ABORT, 'released_at and changed_at are kept by the database: leave them out');
END;

CREATE TRIGGER certificates_delete BEFORE DELETE ON certificates BEGIN
  SELECT RAISE(ABORT, 'certificates are never deleted: an issued serial must stay answerable; revoke it instead');
END;

CREATE TRIGGER events_insert BEFORE INSERT ON events BEGIN
  SELECT RAISE(ABORT, 'this event is there already and events never change: INSERT without id')
  WHERE EXISTS (SELECT 1 FROM events WHERE id = NEW.id);
  SELECT RAISE(ABORT, 'events tell of certificates that are in the database: INSERT the certificate first')
  WHERE NOT EXISTS (SELECT 1 FROM certificates WHERE issuer = NEW.issuer AND serial = NEW.serial);
END;

CREATE TRIGGER events_inserted AFTER INSERT ON events BEGIN
  SELECT RAISE(ABORT, 'events are recorded now and in order: leave id and recorded_at out')
  WHERE NEW.recorded_at <> unixepoch() OR EXISTS (SELECT 1 FROM events WHERE id > NEW.id);
END;

CREATE TRIGGER events_update BEFORE UPDATE ON events BEGIN
  SELECT RAISE(ABORT, 'events never change: correct the certificate by an UPDATE with actor, which writes a new event');
END;

CREATE TRIGGER events_delete BEFORE DELETE ON events BEGIN
  SELECT RAISE(ABORT, 'events are never deleted: they are the record of who did what when');
END;

CREATE TRIGGER changes_insert BEFORE INSERT ON changes BEGIN
  SELECT RAISE(ABORT, 'this seq is taken: INSERT without seq')
  WHERE EXISTS (SELECT 1 FROM changes WHERE seq = NEW.seq);
END;

CREATE TRIGGER changes_inserted AFTER INSERT ON changes BEGIN
  SELECT RAISE(ABORT, 'readers have gone past this seq and would not see it: INSERT without seq')
  WHERE EXISTS (SELECT 1 FROM changes WHERE seq > NEW.seq);
END;

CREATE TRIGGER changes_update BEFORE UPDATE ON changes BEGIN
  SELECT RAISE(ABORT, 'the change log is not changed: INSERT another row to have a certificate read again');
END;

CREATE TRIGGER changes_delete BEFORE DELETE ON changes BEGIN
  SELECT RAISE(ABORT, 'the newest change stays: trim with seq < (SELECT max(seq) FROM changes)')
  WHERE NOT EXISTS (SELECT 1 FROM changes WHERE seq > OLD.seq);
  SELECT RAISE(ABORT, 'the change log is trimmed from its oldest row on, without gaps: use seq < a number')
  WHERE EXISTS (SELECT 1 FROM changes WHERE seq < OLD.seq);
END;
