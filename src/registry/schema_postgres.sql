-- Jarchy's issuance database on PostgreSQL (13 or newer), in a schema of its own; the same tables, rules and
-- words as in schema.sql, which explains the columns at more length.
--
-- Whoever runs this owns it. Who else may what:
--   GRANT USAGE ON SCHEMA jarchy TO ca;                        -- the CA's software: writes certificates
--   GRANT SELECT ON ALL TABLES IN SCHEMA jarchy TO ca;
--   GRANT INSERT, UPDATE ON jarchy.certificates TO ca;
--   GRANT USAGE ON SCHEMA jarchy TO reader;                    -- a Jarchy that serves
--   GRANT SELECT ON ALL TABLES IN SCHEMA jarchy TO reader;
--   GRANT UPDATE ON jarchy.heartbeat TO reader;                -- where replicas of this server are read
--   GRANT INSERT, UPDATE ON jarchy.publishers TO reader;       -- one that makes CRLs
-- Events and changes are written with the owner's rights, so nobody needs rights on them to issue or revoke.
--
-- How it keeps its truth, whatever the writer's settings:
-- * Shapes are CHECKs, named by what they say (63 octets at most); steps from one state to the next are
--   judged by triggers, BEFORE each row, when PostgreSQL has locked it and OLD is its latest state: of two
--   transactions that change one certificate the second is judged by what the first has left.
-- * The trace of an INSERT is written AFTER it: ON CONFLICT DO NOTHING may drop a row between the two.
-- * All names are qualified, every function has its own search_path, and none has a literal that
--   standard_conforming_strings could change.
-- * A transaction that changes something sends a notification, so it cannot be PREPAREd for two-phase commit.

DO $$ BEGIN
  -- Somebody with the right to create schemas may have made it for the role that runs this.
  IF to_regnamespace('jarchy') IS NULL THEN CREATE SCHEMA jarchy; END IF;
END $$;

-- Seconds since 1970 (UTC): later than any lock that the statement waited for.
CREATE FUNCTION jarchy.now() RETURNS BIGINT LANGUAGE sql VOLATILE PARALLEL SAFE
AS 'SELECT pg_catalog.floor(EXTRACT(epoch FROM pg_catalog.clock_timestamp()))::pg_catalog.int8';

CREATE TABLE jarchy.meta(
  -- One row about this database itself.
  one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  -- Tells readers that this is Jarchy's, and which of its databases.
  kind TEXT NOT NULL DEFAULT 'issuance database',
  -- How many migrations it has seen; kept by Jarchy.
  version INTEGER NOT NULL DEFAULT 1,
  -- Made at random when the database was; readers know by it that another one was put in its place.
  identity TEXT NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', '') CHECK (length(identity) = 32),
  -- Raise it by one after a backup was restored: readers then load everything anew.
  epoch BIGINT NOT NULL DEFAULT 1,
  -- The newest transaction of which a row was ever trimmed from the change log; kept by the database.
  trimmed xid8 NOT NULL DEFAULT '0'
);
INSERT INTO jarchy.meta DEFAULT VALUES;

CREATE TABLE jarchy.heartbeat(
  -- Written on the primary every second by a Jarchy that may; on a replica it tells how far the replay is.
  id INTEGER PRIMARY KEY DEFAULT 1 CHECK (id = 1),
  -- Then it was at least this late, by the clock of the server and by that of whoever wrote it.
  at BIGINT NOT NULL,
  -- How far the server's clock was ahead of that; so far all commits are dated too late.
  ahead BIGINT NOT NULL DEFAULT 0
);
INSERT INTO jarchy.heartbeat(at) VALUES (0);

CREATE TABLE jarchy.issuers(
  -- A CA name and key; a CA with a new key is another issuer.
  name TEXT COLLATE "C" NOT NULL PRIMARY KEY
    CONSTRAINT "an issuer's name is made of a-z, 0-9 and _, not _ first" CHECK (name ~ '^[a-z0-9][a-z0-9_]*$'),
  certificate BYTEA NOT NULL
    CONSTRAINT "certificate holds the CA's certificate in DER, not in PEM" CHECK (substr(certificate, 1, 1) = '\x30'),
  -- 1 for an old CA that really issued negative serial numbers.
  negative_serials INTEGER NOT NULL DEFAULT 0 CHECK (negative_serials IN (0, 1))
);

CREATE TABLE jarchy.certificates(
  -- Every certificate that was issued, whatever became of it. Times are seconds since 1970-01-01 UTC.
  issuer TEXT COLLATE "C" NOT NULL,
  -- Content octets of the serialNumber: '\x00F12E' for F12E. From the hex that `openssl x509 -noout -serial` prints:
  --   SELECT decode(CASE WHEN length(x) % 2 = 1 THEN '0' WHEN x = '' OR x >= '8' THEN '00' ELSE '' END || x, 'hex')
  --   FROM (SELECT ltrim(replace('F1:2E', ':', ''), '0') COLLATE "C" AS x) AS hex;
  serial BYTEA NOT NULL
    CONSTRAINT "serial is 1 to 20 octets: the INTEGER's content" CHECK (length(serial) BETWEEN 1 AND 20)
    CONSTRAINT "serial is the shortest form: 00 only before 80 to FF"
    CHECK (length(serial) = 1 OR NOT (substr(serial, 1, 1) = '\x00' AND substr(serial, 2, 1) < '\x80'))
    CONSTRAINT "serial is the shortest form: FF only before 00 to 7F"
    CHECK (length(serial) = 1 OR NOT (substr(serial, 1, 1) = '\xff' AND substr(serial, 2, 1) >= '\x80')),
  not_before BIGINT NOT NULL,     -- as in the certificate; may lie ahead; never changes
  not_after BIGINT NOT NULL,      -- as in the certificate; never changes
  sha256 BYTEA                    -- of the DER; NULL while only the precertificate exists; set once
    CONSTRAINT "sha256 is the 32 octets of the hash, not its hex" CHECK (length(sha256) = 32),
  holder TEXT COLLATE "C"         -- the CA's own reference to the holder
    CONSTRAINT "holder is a reference or NULL, not an empty text" CHECK (holder <> ''),
  medium TEXT COLLATE "C"         -- where the key lives
    CONSTRAINT "medium is token, cloud, other or NULL" CHECK (medium IN ('token', 'cloud', 'other')),
  renews BYTEA                    -- the serial of the certificate, of the same issuer, that this one follows
    CONSTRAINT "renews is a serial like serial itself" CHECK (length(renews) BETWEEN 1 AND 20),
  shard INTEGER                   -- which shard of the CRL its CRLDistributionPoints name; set once
    CONSTRAINT "shard is 0 or more" CHECK (shard >= 0),
  ca INTEGER                      -- 1 if it is a CA's (basicConstraints), 0 if not, NULL if nobody says; set once
    CONSTRAINT "ca is 1 for a certificate of a CA, 0 for any other, or NULL" CHECK (ca IN (0, 1)),
  status TEXT COLLATE "C" NOT NULL DEFAULT 'good'
    CONSTRAINT "status is good or revoked; on hold is revoked with reason 6" CHECK (status IN ('good', 'revoked')),
  revoked_at BIGINT,              -- revocationDate; a hold that becomes final keeps the hold's start
  reason INTEGER                  -- RFC 5280 5.3.1; 6 is certificateHold, NULL none given
    CONSTRAINT "reason is one of 0 to 6, 9, 10 (RFC 5280 5.3.1)" CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 9, 10)),
  invalidity_date BIGINT,         -- since when the key is thought to be in other hands (RFC 5280 5.3.2)
  released_at BIGINT,             -- when a hold was last lifted; kept by the database, leave it out
  changed_at BIGINT NOT NULL,     -- when the row last changed; kept by the database, leave it out
  -- Who wants this INSERT or UPDATE, and when the request came in: they go into its event and are NULL again.
  actor TEXT CONSTRAINT "actor is who wants the change, not an empty text" CHECK (actor <> ''),
  received_at BIGINT,
  PRIMARY KEY (issuer, serial),
  CONSTRAINT "not_after lies before not_before: are they swapped?" CHECK (not_before <= not_after),
  CONSTRAINT "times are seconds since 1970 (UTC): are they milliseconds?"
    CHECK (not_before BETWEEN -62167219200 AND 253402300799 AND not_after BETWEEN -62167219200 AND 253402300799
      AND coalesce(revoked_at, 0) BETWEEN 0 AND 253402300799
      AND coalesce(invalidity_date, 0) BETWEEN -62167219200 AND 253402300799
      AND coalesce(received_at, 0) BETWEEN 0 AND 253402300799),
  CONSTRAINT "a revoked certificate needs revoked_at: jarchy.now() is now"
    CHECK (status <> 'revoked' OR revoked_at IS NOT NULL),
  CONSTRAINT "a good certificate has no revocation: NULL its columns"
    CHECK (status <> 'good' OR (revoked_at IS NULL AND reason IS NULL AND invalidity_date IS NULL))
);

CREATE INDEX certificates_by_holder ON jarchy.certificates(holder) WHERE holder IS NOT NULL;

CREATE TABLE jarchy.events(
  -- What happened to certificates, written by the triggers of that table, never changed.
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  issuer TEXT COLLATE "C" NOT NULL,
  serial BYTEA NOT NULL,
  -- issue, hash (the final certificate's became known), revoke, hold, release, update (anything else)
  kind TEXT NOT NULL CHECK (kind IN ('issue', 'hash', 'revoke', 'hold', 'release', 'update')),
  actor TEXT,                     -- who wanted it; NULL where the writer did not say
  received_at BIGINT,             -- when the request came in; NULL where the writer did not say
  effective_at BIGINT NOT NULL,   -- from when it counts: revoked_at of a revocation, else recorded_at
  recorded_at BIGINT NOT NULL,
  before TEXT,                    -- JSON of what may change in a row, as it was and as it became; hex for octets
  after TEXT
);

CREATE INDEX events_of_certificate ON jarchy.events(issuer, serial, id);

CREATE TABLE jarchy.changes(
  -- What readers have to read again: names a certificate, says nothing of it. Transactions commit in another
  -- order than seq; readers therefore take what their last pg_snapshot did not yet show of xid. Any row but
  -- the newest may be trimmed, best by `jarchy database trim`: meta.trimmed remembers the newest transaction
  -- that lost one, and readers that have not seen all up to it load everything anew.
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  issuer TEXT COLLATE "C" NOT NULL,
  serial BYTEA NOT NULL,
  at BIGINT NOT NULL DEFAULT jarchy.now()
);

CREATE INDEX changes_by_xid ON jarchy.changes(xid, seq);

CREATE TABLE jarchy.publishers(
  -- Which Jarchy makes an issuer's CRLs, written by it every minute; another does once this is ten minutes old, or
  -- after `jarchy crl take-over`.
  issuer TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  store TEXT NOT NULL,            -- the identity of the state store that it keeps numbers and lists in
  process TEXT NOT NULL,          -- which process, made at random; empty after a take-over until one begins
  host TEXT NOT NULL,             -- where it runs, for people
  number BIGINT NOT NULL,         -- the highest CRLNumber that was given out
  renewed_at BIGINT NOT NULL      -- when it last said so
);

CREATE FUNCTION jarchy.issuers_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE check_violation USING MESSAGE = 'issuers are never deleted: what they issued must stay answerable; take the issuer out of jarchy.toml instead';
  ELSIF TG_OP = 'UPDATE' THEN
    IF NEW.name IS DISTINCT FROM OLD.name OR NEW.certificate IS DISTINCT FROM OLD.certificate THEN
      RAISE check_violation USING MESSAGE = 'name and certificate of an issuer never change: INSERT another issuer instead';
    END IF;
    RETURN NEW;
  END IF;
  -- One at a time, so that none of two with the same certificate overlooks the other.
  LOCK TABLE jarchy.issuers IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM jarchy.issuers WHERE name = NEW.name) THEN
    RAISE check_violation USING MESSAGE = 'an issuer of this name is there already and stays as it is: register another CA or key under another name';
  ELSIF EXISTS (SELECT FROM jarchy.issuers WHERE certificate = NEW.certificate) THEN
    RAISE check_violation USING MESSAGE = 'this CA certificate is registered already under another name: use that one';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER issuers_guard BEFORE INSERT OR UPDATE OR DELETE ON jarchy.issuers
FOR EACH ROW EXECUTE FUNCTION jarchy.issuers_guard();

CREATE FUNCTION jarchy.meta_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    RAISE check_violation USING MESSAGE = 'meta has its one row already: UPDATE meta SET epoch = epoch + 1 is all it needs';
  ELSIF TG_OP = 'DELETE' THEN
    RAISE check_violation USING MESSAGE = 'the row of meta stays: it tells readers which database this is';
  ELSIF NEW.one <> OLD.one OR NEW.identity IS DISTINCT FROM OLD.identity OR NEW.kind IS DISTINCT FROM OLD.kind THEN
    RAISE check_violation USING MESSAGE = 'the identity of a database never changes: leave identity out of the UPDATE';
  ELSIF NEW.epoch < OLD.epoch THEN
    RAISE check_violation USING MESSAGE = 'epoch only grows: UPDATE meta SET epoch = epoch + 1';
  ELSIF NEW.trimmed < OLD.trimmed OR NEW.version < OLD.version THEN
    RAISE check_violation USING MESSAGE = 'trimmed and version are kept by Jarchy: leave them out';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER meta_guard BEFORE INSERT OR UPDATE OR DELETE ON jarchy.meta
FOR EACH ROW EXECUTE FUNCTION jarchy.meta_guard();

CREATE FUNCTION jarchy.certificates_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  negative BIGINT;
BEGIN
  IF EXISTS (SELECT FROM jarchy.certificates WHERE issuer = NEW.issuer AND serial = NEW.serial) THEN
    RAISE check_violation USING MESSAGE = 'this issuer has issued this serial already: change its row by UPDATE, never by INSERT OR REPLACE';
  END IF;
  SELECT negative_serials INTO negative FROM jarchy.issuers WHERE name = NEW.issuer;
  IF NOT FOUND THEN
    RAISE check_violation USING MESSAGE = 'unknown issuer: INSERT INTO issuers(name, certificate) comes first, or use a name that is there (SELECT name FROM issuers)';
  ELSIF negative = 0 AND substr(NEW.serial, 1, 1) >= decode('80', 'hex') THEN
    RAISE check_violation USING MESSAGE = E'a serial that begins with an octet of 80 or more is a negative number: put the sign octet 00 before it (''\\x00F12E'' for F12E)';
  ELSIF NEW.released_at IS NOT NULL OR NEW.changed_at IS NOT NULL THEN
    RAISE check_violation USING MESSAGE = 'released_at and changed_at are kept by the database: leave them out';
  END IF;
  NEW.changed_at := jarchy.now();
  RETURN NEW;
END $$;
CREATE TRIGGER certificates_insert BEFORE INSERT ON jarchy.certificates
FOR EACH ROW EXECUTE FUNCTION jarchy.certificates_insert();

CREATE FUNCTION jarchy.certificates_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO jarchy.events(issuer, serial, kind, actor, received_at, recorded_at, effective_at)
  VALUES (NEW.issuer, NEW.serial, 'issue', NEW.actor, NEW.received_at, NEW.changed_at, NEW.changed_at);
  IF NEW.status = 'revoked' THEN
    INSERT INTO jarchy.events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, after)
    VALUES (NEW.issuer, NEW.serial, CASE WHEN NEW.reason = 6 THEN 'hold' ELSE 'revoke' END, NEW.actor, NEW.received_at,
      NEW.changed_at, NEW.revoked_at,
      json_build_object('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason, 'invalidity_date', NEW.invalidity_date));
  END IF;
  INSERT INTO jarchy.changes(issuer, serial) VALUES (NEW.issuer, NEW.serial);
  IF NEW.actor IS NOT NULL OR NEW.received_at IS NOT NULL THEN
    UPDATE jarchy.certificates SET actor = NULL, received_at = NULL WHERE issuer = NEW.issuer AND serial = NEW.serial;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER certificates_inserted AFTER INSERT ON jarchy.certificates
FOR EACH ROW EXECUTE FUNCTION jarchy.certificates_inserted();

CREATE FUNCTION jarchy.certificates_update() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now BIGINT := greatest(jarchy.now(), OLD.changed_at);
  -- What relying parties see of it, and what only the CA does.
  seen BOOLEAN := (NEW.status, NEW.revoked_at, NEW.reason, NEW.invalidity_date, NEW.shard, NEW.ca)
    IS DISTINCT FROM (OLD.status, OLD.revoked_at, OLD.reason, OLD.invalidity_date, OLD.shard, OLD.ca);
  own BOOLEAN := (NEW.holder, NEW.medium, NEW.renews) IS DISTINCT FROM (OLD.holder, OLD.medium, OLD.renews);
  hashed BOOLEAN := NEW.sha256 IS DISTINCT FROM OLD.sha256;
  was_hold BOOLEAN := OLD.status = 'revoked' AND OLD.reason IS NOT DISTINCT FROM 6;
  is_hold BOOLEAN := NEW.status = 'revoked' AND NEW.reason IS NOT DISTINCT FROM 6;
BEGIN
  IF (NEW.issuer, NEW.serial) IS DISTINCT FROM (OLD.issuer, OLD.serial) THEN
    RAISE check_violation USING MESSAGE = 'issuer and serial of a certificate never change: INSERT the other certificate as a row of its own';
  ELSIF (NEW.not_before, NEW.not_after) IS DISTINCT FROM (OLD.not_before, OLD.not_after) THEN
    RAISE check_violation USING MESSAGE = 'not_before and not_after never change: a certificate with another validity is another certificate, with a serial of its own';
  ELSIF OLD.sha256 IS NOT NULL AND hashed THEN
    RAISE check_violation USING MESSAGE = 'sha256 is set once, from NULL: another certificate needs a serial of its own';
  ELSIF OLD.shard IS NOT NULL AND NEW.shard IS DISTINCT FROM OLD.shard THEN
    RAISE check_violation USING MESSAGE = 'shard is set once, from NULL: the certificate names its CRL for life';
  ELSIF OLD.ca IS NOT NULL AND NEW.ca IS DISTINCT FROM OLD.ca THEN
    RAISE check_violation USING MESSAGE = 'ca is set once, from NULL: basicConstraints of a certificate never change';
  ELSIF (NEW.released_at, NEW.changed_at) IS DISTINCT FROM (OLD.released_at, OLD.changed_at) THEN
    RAISE check_violation USING MESSAGE = 'released_at and changed_at are kept by the database: leave them out';
  ELSIF OLD.status = 'revoked' AND NEW.status = 'good' AND NOT was_hold THEN
    RAISE check_violation USING MESSAGE = 'a revoked certificate never becomes good again, only one on hold (reason 6) is released: issue a new certificate';
  ELSIF OLD.status = 'revoked' AND is_hold AND NOT was_hold THEN
    RAISE check_violation USING MESSAGE = 'a final revocation cannot become a hold: leave reason 6 to certificates that are good';
  ELSIF was_hold AND NEW.status = 'revoked' AND NOT is_hold AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at AND NEW.actor IS NULL THEN
    RAISE check_violation USING MESSAGE = 'a hold that becomes final keeps revoked_at, the start of the hold: leave revoked_at out, or set actor in the same UPDATE to date it otherwise';
  ELSIF OLD.status = 'revoked' AND NEW.status = 'revoked' AND NEW.actor IS NULL AND NOT (was_hold AND NOT is_hold)
    AND (NEW.revoked_at, NEW.reason, NEW.invalidity_date) IS DISTINCT FROM (OLD.revoked_at, OLD.reason, OLD.invalidity_date) THEN
    RAISE check_violation USING MESSAGE = 'the certificate is revoked already: to change its reason or dates set actor in the same UPDATE, so that it is known who wanted it';
  -- Not left to CHECKs, which come after these two were taken out of the row.
  ELSIF NEW.actor = '' THEN
    RAISE check_violation USING MESSAGE = 'actor is who wants the change, not an empty text';
  ELSIF NEW.received_at NOT BETWEEN 0 AND 253402300799 THEN
    RAISE check_violation USING MESSAGE = 'times are seconds since 1970 (UTC): are they milliseconds?';
  END IF;

  IF hashed THEN
    INSERT INTO jarchy.events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, after)
    VALUES (NEW.issuer, NEW.serial, 'hash', NEW.actor, NEW.received_at, now, now, json_build_object('sha256', encode(NEW.sha256, 'hex')));
  END IF;
  IF seen OR own THEN
    INSERT INTO jarchy.events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, before, after)
    VALUES (NEW.issuer, NEW.serial,
      CASE WHEN OLD.status = 'revoked' AND NEW.status = 'good' THEN 'release'
           WHEN OLD.status = 'good' AND is_hold THEN 'hold'
           WHEN NEW.status = 'revoked' AND NOT is_hold AND (OLD.status = 'good' OR was_hold) THEN 'revoke'
           ELSE 'update' END,
      NEW.actor, NEW.received_at, now, CASE WHEN OLD.status = 'good' AND NEW.status = 'revoked' THEN coalesce(NEW.revoked_at, now) ELSE now END,
      json_build_object('status', OLD.status, 'revoked_at', OLD.revoked_at, 'reason', OLD.reason,
        'invalidity_date', OLD.invalidity_date, 'holder', OLD.holder, 'medium', OLD.medium,
        'renews', upper(encode(OLD.renews, 'hex')), 'shard', OLD.shard, 'ca', OLD.ca),
      json_build_object('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason,
        'invalidity_date', NEW.invalidity_date, 'holder', NEW.holder, 'medium', NEW.medium,
        'renews', upper(encode(NEW.renews, 'hex')), 'shard', NEW.shard, 'ca', NEW.ca));
  END IF;
  IF seen OR hashed THEN
    INSERT INTO jarchy.changes(issuer, serial) VALUES (NEW.issuer, NEW.serial);
  END IF;
  IF seen OR own OR hashed THEN
    NEW.changed_at := now;
  END IF;
  IF OLD.status = 'revoked' AND NEW.status = 'good' THEN
    NEW.released_at := now;
  END IF;
  NEW.actor := NULL;
  NEW.received_at := NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER certificates_update BEFORE UPDATE ON jarchy.certificates
FOR EACH ROW EXECUTE FUNCTION jarchy.certificates_update();

CREATE FUNCTION jarchy.events_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- The triggers of certificates say the moment that stands in the row too.
  IF NEW.recorded_at IS NOT NULL AND pg_trigger_depth() = 1 THEN
    RAISE check_violation USING MESSAGE = 'events are recorded now and in order: leave id and recorded_at out';
  ELSIF NOT EXISTS (SELECT FROM jarchy.certificates WHERE issuer = NEW.issuer AND serial = NEW.serial) THEN
    RAISE check_violation USING MESSAGE = 'events tell of certificates that are in the database: INSERT the certificate first';
  END IF;
  NEW.recorded_at := coalesce(NEW.recorded_at, jarchy.now());
  RETURN NEW;
END $$;
CREATE TRIGGER events_insert BEFORE INSERT ON jarchy.events FOR EACH ROW EXECUTE FUNCTION jarchy.events_insert();

CREATE FUNCTION jarchy.changes_insert() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.xid <> pg_current_xact_id() THEN
    RAISE check_violation USING MESSAGE = 'readers would not see a change of another transaction: INSERT without xid';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER changes_insert BEFORE INSERT ON jarchy.changes FOR EACH ROW EXECUTE FUNCTION jarchy.changes_insert();

-- Wakes readers when the transaction commits; it carries nothing, so that one is sent however much changed.
CREATE FUNCTION jarchy.changes_inserted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_notify('jarchy_changes', '');
  RETURN NULL;
END $$;
CREATE TRIGGER changes_inserted AFTER INSERT ON jarchy.changes FOR EACH STATEMENT EXECUTE FUNCTION jarchy.changes_inserted();

CREATE FUNCTION jarchy.changes_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (SELECT max(seq) FROM deleted) > coalesce((SELECT max(seq) FROM jarchy.changes), 0) THEN
    RAISE check_violation USING MESSAGE = 'the newest change stays: trim with seq < (SELECT max(seq) FROM changes)';
  END IF;
  UPDATE jarchy.meta SET trimmed = greatest(trimmed, (SELECT xid FROM deleted ORDER BY xid DESC LIMIT 1));
  RETURN NULL;
END $$;
CREATE TRIGGER changes_deleted AFTER DELETE ON jarchy.changes REFERENCING OLD TABLE AS deleted
FOR EACH STATEMENT EXECUTE FUNCTION jarchy.changes_deleted();

-- Says no, in the words that its trigger gives it.
CREATE FUNCTION jarchy.refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE check_violation USING MESSAGE = TG_ARGV[0];
END $$;
CREATE TRIGGER certificates_delete BEFORE DELETE OR TRUNCATE ON jarchy.certificates FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('certificates are never deleted: an issued serial must stay answerable; revoke it instead');
CREATE TRIGGER events_update BEFORE UPDATE ON jarchy.events FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('events never change: correct the certificate by an UPDATE with actor, which writes a new event');
CREATE TRIGGER events_delete BEFORE DELETE OR TRUNCATE ON jarchy.events FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('events are never deleted: they are the record of who did what when');
CREATE TRIGGER changes_update BEFORE UPDATE ON jarchy.changes FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('the change log is not changed: INSERT another row to have a certificate read again');
CREATE TRIGGER changes_truncate BEFORE TRUNCATE ON jarchy.changes FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('the newest change stays: trim with seq < (SELECT max(seq) FROM changes)');
CREATE TRIGGER issuers_truncate BEFORE TRUNCATE ON jarchy.issuers FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('issuers are never deleted: what they issued must stay answerable; take the issuer out of jarchy.toml instead');
CREATE TRIGGER meta_truncate BEFORE TRUNCATE ON jarchy.meta FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('the row of meta stays: it tells readers which database this is');
CREATE TRIGGER heartbeat_delete BEFORE DELETE OR TRUNCATE ON jarchy.heartbeat FOR EACH STATEMENT
EXECUTE FUNCTION jarchy.refuse('the row of heartbeat stays: it tells readers of a replica how far that is');

-- With them others could write events from tables of their own.
REVOKE ALL ON FUNCTION jarchy.certificates_insert(), jarchy.certificates_inserted(), jarchy.certificates_update(),
  jarchy.changes_deleted() FROM PUBLIC;
