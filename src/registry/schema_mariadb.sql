-- Jarchy's issuance database on MariaDB (10.6 or newer) or MySQL (8.0.29 or newer), in a database of its own;
-- the same tables, rules and words as in schema.sql, which explains the columns at more length.
--
-- Whoever runs this is the definer of the triggers and keeps the right to write every table. With binary logs
-- that takes log_bin_trust_function_creators = ON or the right to set it. Who else may what, in a database `jarchy`:
--   GRANT SELECT ON jarchy.* TO ca;                            -- the CA's software: writes certificates
--   GRANT INSERT, UPDATE ON jarchy.certificates TO ca;
--   GRANT SELECT ON jarchy.* TO reader;                        -- a Jarchy that serves
--   GRANT UPDATE ON jarchy.heartbeat TO reader;                -- where replicas of this server are read
--   GRANT INSERT, UPDATE ON jarchy.publishers TO reader;       -- one that makes CRLs
-- Nobody needs DROP, with which TRUNCATE would pass by all triggers.
--
-- How it keeps its truth, whatever the writer's settings:
-- * Shapes are CHECKs, named by what they say (64 characters at most); a session that has switched CHECKs off
--   is refused by the triggers, which judge the steps from one state to the next.
-- * Columns are one octet longer than what they may hold, and needed ones have no default: what a session
--   without strict mode cuts off or fills in is refused as well.
-- * Each statement here may run again, as this server cannot undo the first half of an interrupted creation.

CREATE TABLE IF NOT EXISTS meta(
  one INT NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
  kind VARCHAR(64) NOT NULL COMMENT 'tells readers that this is Jarchy''s, and which of its databases',
  version INT NOT NULL DEFAULT 0 COMMENT 'how many migrations it has seen; kept by Jarchy',
  identity CHAR(32) NOT NULL COMMENT 'made at random when the database was: readers know by it that another one was put in its place',
  epoch BIGINT NOT NULL DEFAULT 1 COMMENT 'raise it by one after a backup was restored: readers then load everything anew',
  trimmed BIGINT NOT NULL DEFAULT 0 COMMENT 'the greatest seq that was ever trimmed from the change log; kept by the database'
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT = 'one row about this database itself';
INSERT INTO meta(kind, identity)
SELECT 'issuance database', LEFT(SHA2(CONCAT(UUID(), RAND(), CONNECTION_ID(), NOW(6)), 256), 32)
FROM (SELECT 1) AS one_row WHERE NOT EXISTS (SELECT 1 FROM meta);

CREATE TABLE IF NOT EXISTS heartbeat(
  id INT NOT NULL PRIMARY KEY DEFAULT 1 CHECK (id = 1),
  at BIGINT NOT NULL
) ENGINE = InnoDB COMMENT = 'written on the primary every second by a Jarchy that may; on a replica it tells how far that is';
INSERT INTO heartbeat(at) SELECT 0 FROM (SELECT 1) AS one_row WHERE NOT EXISTS (SELECT 1 FROM heartbeat);

CREATE TABLE IF NOT EXISTS issuers(
  name VARCHAR(255) NOT NULL PRIMARY KEY COMMENT 'by which URLs and jarchy.toml call it',
  certificate MEDIUMBLOB COMMENT 'the CA''s certificate in DER',
  negative_serials INT NOT NULL DEFAULT 0 COMMENT '1 for an old CA that really issued negative serial numbers',
  certificate_sha256 BINARY(32) AS (UNHEX(SHA2(certificate, 256))) STORED
    COMMENT 'kept by the database: of two who register one CA at once it refuses the second',
  UNIQUE KEY `this CA certificate is registered already under another name` (certificate_sha256),
  CONSTRAINT `an issuer's name is made of a-z, 0-9 and _, not _ first`
    CHECK (name REGEXP '^[a-z0-9]' AND NOT name REGEXP '[^a-z0-9_]'),
  CONSTRAINT `certificate holds the CA's certificate in DER, not in PEM`
    CHECK (certificate IS NOT NULL AND SUBSTR(certificate, 1, 1) = X'30'),
  CONSTRAINT `negative_serials is 0 or 1` CHECK (negative_serials IN (0, 1))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin
  COMMENT = 'a CA name and key; a CA with a new key is another issuer';

CREATE TABLE IF NOT EXISTS certificates(
  issuer VARCHAR(255) NOT NULL COMMENT 'issuers.name; never changes',
  serial VARBINARY(21) NOT NULL COMMENT 'content octets of the serialNumber: x''00F12E'' for F12E; never changes',
  not_before BIGINT COMMENT 'seconds since 1970 (UTC), like all times; may lie ahead; never changes',
  not_after BIGINT COMMENT 'never changes',
  sha256 VARBINARY(33) COMMENT 'of the DER; NULL while only the precertificate exists; set once',
  holder VARCHAR(255) COMMENT 'the CA''s own reference to the holder',
  medium VARCHAR(16) COMMENT 'where the key lives: token, cloud, other',
  renews VARBINARY(21) COMMENT 'the serial of the certificate, of the same issuer, that this one follows',
  shard INT COMMENT 'which shard of the CRL its CRLDistributionPoints name; set once',
  ca INT COMMENT '1 if it is a certificate of a CA (basicConstraints), 0 if not, NULL if nobody says; set once',
  status VARCHAR(16) NOT NULL DEFAULT 'good' COMMENT 'good or revoked; on hold is revoked with reason 6',
  revoked_at BIGINT COMMENT 'revocationDate; a hold that becomes final keeps the start of the hold',
  reason INT COMMENT 'RFC 5280 5.3.1; 6 is certificateHold, NULL none given',
  invalidity_date BIGINT COMMENT 'since when the key is thought to be in other hands (RFC 5280 5.3.2)',
  released_at BIGINT COMMENT 'when a hold was last lifted; kept by the database, leave it out',
  changed_at BIGINT COMMENT 'when the row last changed; kept by the database, leave it out',
  actor VARCHAR(255) COMMENT 'who wants this INSERT or UPDATE: goes into its event and is NULL again',
  received_at BIGINT COMMENT 'when the request came in: goes into its event and is NULL again',
  PRIMARY KEY (issuer, serial),
  KEY certificates_by_holder (holder),
  CONSTRAINT `serial is 1 to 20 octets: the INTEGER's content` CHECK (LENGTH(serial) BETWEEN 1 AND 20),
  CONSTRAINT `serial is the shortest form: 00 only before 80 to FF`
    CHECK (LENGTH(serial) = 1 OR NOT (SUBSTR(serial, 1, 1) = X'00' AND SUBSTR(serial, 2, 1) < X'80')),
  CONSTRAINT `serial is the shortest form: FF only before 00 to 7F`
    CHECK (LENGTH(serial) = 1 OR NOT (SUBSTR(serial, 1, 1) = X'FF' AND SUBSTR(serial, 2, 1) >= X'80')),
  CONSTRAINT `not_before and not_after are needed, NOT NULL` CHECK (not_before IS NOT NULL AND not_after IS NOT NULL),
  CONSTRAINT `sha256 is the 32 octets of the hash, not its hex` CHECK (LENGTH(sha256) = 32),
  CONSTRAINT `holder is a reference or NULL, not an empty text` CHECK (holder <> ''),
  CONSTRAINT `medium is token, cloud, other or NULL` CHECK (medium IN ('token', 'cloud', 'other')),
  CONSTRAINT `renews is a serial like serial itself` CHECK (LENGTH(renews) BETWEEN 1 AND 20),
  CONSTRAINT `shard is 0 or more` CHECK (shard >= 0),
  CONSTRAINT `ca is 1 for a certificate of a CA, 0 for any other, or NULL` CHECK (ca IN (0, 1)),
  CONSTRAINT `status is good or revoked; on hold is revoked with reason 6` CHECK (status IN ('good', 'revoked')),
  CONSTRAINT `reason is one of 0 to 6, 9, 10 (RFC 5280 5.3.1)` CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 9, 10)),
  CONSTRAINT `not_after lies before not_before: are they swapped?` CHECK (not_before <= not_after),
  CONSTRAINT `times are seconds since 1970 (UTC): are they milliseconds?`
    CHECK (not_before BETWEEN -62167219200 AND 253402300799 AND not_after BETWEEN -62167219200 AND 253402300799
      AND COALESCE(revoked_at, 0) BETWEEN 0 AND 253402300799
      AND COALESCE(invalidity_date, 0) BETWEEN -62167219200 AND 253402300799),
  CONSTRAINT `a revoked certificate needs revoked_at: UNIX_TIMESTAMP() is now`
    CHECK (status <> 'revoked' OR revoked_at IS NOT NULL),
  CONSTRAINT `a good certificate has no revocation: NULL its columns`
    CHECK (status <> 'good' OR (revoked_at IS NULL AND reason IS NULL AND invalidity_date IS NULL))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin
  COMMENT = 'every certificate that was issued, whatever became of it';

CREATE TABLE IF NOT EXISTS events(
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  issuer VARCHAR(255) NOT NULL,
  serial VARBINARY(21) NOT NULL,
  kind VARCHAR(8) NOT NULL COMMENT 'issue, hash (the final certificate''s became known), revoke, hold, release, update (anything else)',
  actor VARCHAR(255) COMMENT 'who wanted it; NULL where the writer did not say',
  received_at BIGINT COMMENT 'when the request came in; NULL where the writer did not say',
  effective_at BIGINT NOT NULL COMMENT 'from when it counts: revoked_at of a revocation, else recorded_at',
  recorded_at BIGINT,
  `before` TEXT COMMENT 'JSON of what may change in a row, as it was; hex for octets',
  `after` TEXT COMMENT 'and as it became',
  KEY events_of_certificate (issuer, serial, id),
  CONSTRAINT `kind is issue, hash, revoke, hold, release or update`
    CHECK (kind IN ('issue', 'hash', 'revoke', 'hold', 'release', 'update'))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin
  COMMENT = 'what happened to certificates, written by the triggers of that table, never changed';

-- Transactions commit in another order than seq: readers remember the gaps that they have seen. Any row but
-- the newest may be trimmed, best by `jarchy database trim`: meta.trimmed remembers the greatest seq that went,
-- and readers that have not seen all up to it load everything anew.
CREATE TABLE IF NOT EXISTS changes(
  seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  issuer VARCHAR(255) NOT NULL,
  serial VARBINARY(21) NOT NULL,
  at BIGINT
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin
  COMMENT = 'what readers have to read again: names a certificate, says nothing of it; written by triggers';

CREATE TABLE IF NOT EXISTS publishers(
  issuer VARCHAR(255) NOT NULL PRIMARY KEY COMMENT 'issuers.name',
  store VARCHAR(64) NOT NULL COMMENT 'the identity of the state store that it keeps numbers and lists in',
  process VARCHAR(64) NOT NULL COMMENT 'which process, made at random; empty after a take-over until one begins',
  host VARCHAR(255) NOT NULL COMMENT 'where it runs, for people',
  number BIGINT NOT NULL COMMENT 'the highest CRLNumber that was given out',
  renewed_at BIGINT NOT NULL COMMENT 'when it last said so; another publishes once that is ten minutes ago'
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin
  COMMENT = 'which Jarchy makes an issuer''s CRLs, written by it every minute, or by `jarchy crl take-over`';

CREATE TRIGGER IF NOT EXISTS meta_insert BEFORE INSERT ON meta FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'meta has its one row already: UPDATE meta SET epoch = epoch + 1 is all it needs';

CREATE TRIGGER IF NOT EXISTS meta_update BEFORE UPDATE ON meta FOR EACH ROW BEGIN
  IF NEW.one <> OLD.one OR NEW.identity <> OLD.identity OR NEW.kind <> OLD.kind THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the identity of a database never changes: leave identity out of the UPDATE';
  ELSEIF NEW.epoch < OLD.epoch THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'epoch only grows: UPDATE meta SET epoch = epoch + 1';
  ELSEIF NEW.trimmed < OLD.trimmed OR NEW.version < OLD.version THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'trimmed and version are kept by Jarchy: leave them out';
  END IF;
END;

CREATE TRIGGER IF NOT EXISTS meta_delete BEFORE DELETE ON meta FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the row of meta stays: it tells readers which database this is';

CREATE TRIGGER IF NOT EXISTS heartbeat_delete BEFORE DELETE ON heartbeat FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the row of heartbeat stays: it tells readers of a replica how far that is';

CREATE TRIGGER IF NOT EXISTS issuers_insert BEFORE INSERT ON issuers FOR EACH ROW BEGIN
  /*M! IF @@SESSION.check_constraint_checks = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this session checks nothing: SET check_constraint_checks = ON';
  END IF; */
  IF EXISTS (SELECT 1 FROM issuers WHERE name = NEW.name) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'an issuer of this name is there already and stays as it is: register another CA or key under another name';
  ELSEIF EXISTS (SELECT 1 FROM issuers WHERE certificate = NEW.certificate) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this CA certificate is registered already under another name: use that one';
  END IF;
END;

CREATE TRIGGER IF NOT EXISTS issuers_update BEFORE UPDATE ON issuers FOR EACH ROW BEGIN
  IF NOT (NEW.name <=> OLD.name AND NEW.certificate <=> OLD.certificate) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'name and certificate of an issuer never change: INSERT another issuer instead';
  END IF;
END;

CREATE TRIGGER IF NOT EXISTS issuers_delete BEFORE DELETE ON issuers FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'issuers are never deleted: what they issued must stay answerable; take the issuer out of jarchy.toml instead';

CREATE TRIGGER IF NOT EXISTS certificates_insert BEFORE INSERT ON certificates FOR EACH ROW BEGIN
  DECLARE negative INT DEFAULT (SELECT negative_serials FROM issuers WHERE name = NEW.issuer);
  /*M! IF @@SESSION.check_constraint_checks = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this session checks nothing: SET check_constraint_checks = ON';
  END IF; */
  IF EXISTS (SELECT 1 FROM certificates WHERE issuer = NEW.issuer AND serial = NEW.serial) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this issuer has issued this serial already: change its row by UPDATE, never by INSERT OR REPLACE';
  ELSEIF negative IS NULL THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'unknown issuer: INSERT INTO issuers(name, certificate) comes first, or use one that is there (SELECT name FROM issuers)';
  ELSEIF negative = 0 AND SUBSTR(NEW.serial, 1, 1) >= X'80' THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a serial that begins with 80 or more is a negative number: put the sign octet 00 before it (x''00F12E'' for F12E)';
  ELSEIF NEW.released_at IS NOT NULL OR NEW.changed_at IS NOT NULL THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'released_at and changed_at are kept by the database: leave them out';
  END IF;
  -- Not left to CHECKs, which come after these two were taken out of the row.
  IF NEW.actor = '' THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'actor is who wants the change, not an empty text';
  ELSEIF NEW.received_at NOT BETWEEN 0 AND 253402300799 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'times are seconds since 1970 (UTC): are they milliseconds?';
  END IF;
  -- For the event, which is written once the row is.
  SET @jarchy_actor = NEW.actor, @jarchy_received_at = NEW.received_at;
  SET NEW.actor = NULL, NEW.received_at = NULL, NEW.changed_at = UNIX_TIMESTAMP();
END;

CREATE TRIGGER IF NOT EXISTS certificates_inserted AFTER INSERT ON certificates FOR EACH ROW BEGIN
  INSERT INTO events(issuer, serial, kind, actor, received_at, recorded_at, effective_at)
  VALUES (NEW.issuer, NEW.serial, 'issue', @jarchy_actor, @jarchy_received_at, NEW.changed_at, NEW.changed_at);
  IF NEW.status = 'revoked' THEN
    INSERT INTO events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, `after`)
    VALUES (NEW.issuer, NEW.serial, IF(NEW.reason <=> 6, 'hold', 'revoke'), @jarchy_actor, @jarchy_received_at,
      NEW.changed_at, NEW.revoked_at,
      JSON_OBJECT('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason, 'invalidity_date', NEW.invalidity_date));
  END IF;
  INSERT INTO changes(issuer, serial) VALUES (NEW.issuer, NEW.serial);
END;

CREATE TRIGGER IF NOT EXISTS certificates_update BEFORE UPDATE ON certificates FOR EACH ROW BEGIN
  DECLARE was_hold BOOL DEFAULT OLD.status = 'revoked' AND OLD.reason <=> 6;
  DECLARE is_hold BOOL DEFAULT NEW.status = 'revoked' AND NEW.reason <=> 6;
  /*M! IF @@SESSION.check_constraint_checks = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this session checks nothing: SET check_constraint_checks = ON';
  END IF; */
  IF NOT (NEW.issuer <=> OLD.issuer AND NEW.serial <=> OLD.serial) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'issuer and serial of a certificate never change: INSERT the other certificate as a row of its own';
  ELSEIF NOT (NEW.not_before <=> OLD.not_before AND NEW.not_after <=> OLD.not_after) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not_before and not_after never change: a certificate with another validity has a serial of its own';
  ELSEIF OLD.sha256 IS NOT NULL AND NOT NEW.sha256 <=> OLD.sha256 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'sha256 is set once, from NULL: another certificate needs a serial of its own';
  ELSEIF OLD.shard IS NOT NULL AND NOT NEW.shard <=> OLD.shard THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'shard is set once, from NULL: the certificate names its CRL for life';
  ELSEIF OLD.ca IS NOT NULL AND NOT NEW.ca <=> OLD.ca THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'ca is set once, from NULL: basicConstraints of a certificate never change';
  ELSEIF NOT (NEW.released_at <=> OLD.released_at AND NEW.changed_at <=> OLD.changed_at) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'released_at and changed_at are kept by the database: leave them out';
  ELSEIF OLD.status = 'revoked' AND NEW.status = 'good' AND NOT was_hold THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a revoked certificate never becomes good again, only one on hold (reason 6) is released: issue a new certificate';
  ELSEIF OLD.status = 'revoked' AND is_hold AND NOT was_hold THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a final revocation cannot become a hold: leave reason 6 to certificates that are good';
  ELSEIF was_hold AND NEW.status = 'revoked' AND NOT is_hold AND NOT NEW.revoked_at <=> OLD.revoked_at AND NEW.actor IS NULL THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a hold that becomes final keeps revoked_at, the start of the hold: leave it out, or set actor in the same UPDATE';
  ELSEIF OLD.status = 'revoked' AND NEW.status = 'revoked' AND NEW.actor IS NULL AND NOT (was_hold AND NOT is_hold)
    AND NOT (NEW.revoked_at <=> OLD.revoked_at AND NEW.reason <=> OLD.reason AND NEW.invalidity_date <=> OLD.invalidity_date) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the certificate is revoked already: to change its reason or dates set actor in the same UPDATE';
  END IF;
  -- Not left to CHECKs, which come after these two were taken out of the row.
  IF NEW.actor = '' THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'actor is who wants the change, not an empty text';
  ELSEIF NEW.received_at NOT BETWEEN 0 AND 253402300799 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'times are seconds since 1970 (UTC): are they milliseconds?';
  END IF;
  SET @jarchy_actor = NEW.actor, @jarchy_received_at = NEW.received_at;
  SET NEW.actor = NULL, NEW.received_at = NULL;
  IF NOT (NEW.sha256 <=> OLD.sha256 AND NEW.holder <=> OLD.holder AND NEW.medium <=> OLD.medium
    AND NEW.renews <=> OLD.renews AND NEW.shard <=> OLD.shard AND NEW.ca <=> OLD.ca AND NEW.status <=> OLD.status
    AND NEW.revoked_at <=> OLD.revoked_at AND NEW.reason <=> OLD.reason
    AND NEW.invalidity_date <=> OLD.invalidity_date) THEN
    -- UNIX_TIMESTAMP() is when the statement began; it may have waited since for the one before it.
    SET NEW.changed_at = GREATEST(UNIX_TIMESTAMP(), OLD.changed_at);
  END IF;
  IF OLD.status = 'revoked' AND NEW.status = 'good' THEN
    SET NEW.released_at = NEW.changed_at;
  END IF;
END;

CREATE TRIGGER IF NOT EXISTS certificates_updated AFTER UPDATE ON certificates FOR EACH ROW BEGIN
  -- What relying parties see of it, and what only the CA does.
  DECLARE seen BOOL DEFAULT NOT (NEW.status <=> OLD.status AND NEW.revoked_at <=> OLD.revoked_at
    AND NEW.reason <=> OLD.reason AND NEW.invalidity_date <=> OLD.invalidity_date AND NEW.shard <=> OLD.shard
    AND NEW.ca <=> OLD.ca);
  DECLARE own BOOL DEFAULT NOT (NEW.holder <=> OLD.holder AND NEW.medium <=> OLD.medium AND NEW.renews <=> OLD.renews);
  DECLARE hashed BOOL DEFAULT NOT NEW.sha256 <=> OLD.sha256;
  IF hashed THEN
    INSERT INTO events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, `after`)
    VALUES (NEW.issuer, NEW.serial, 'hash', @jarchy_actor, @jarchy_received_at, NEW.changed_at, NEW.changed_at,
      JSON_OBJECT('sha256', LOWER(HEX(NEW.sha256))));
  END IF;
  IF seen OR own THEN
    INSERT INTO events(issuer, serial, kind, actor, received_at, recorded_at, effective_at, `before`, `after`)
    VALUES (NEW.issuer, NEW.serial,
      CASE WHEN OLD.status = 'revoked' AND NEW.status = 'good' THEN 'release'
           WHEN OLD.status = 'good' AND NEW.status = 'revoked' THEN IF(NEW.reason <=> 6, 'hold', 'revoke')
           WHEN OLD.reason <=> 6 AND NOT NEW.reason <=> 6 THEN 'revoke'
           ELSE 'update' END,
      @jarchy_actor, @jarchy_received_at, NEW.changed_at,
      IF(OLD.status = 'good' AND NEW.status = 'revoked', NEW.revoked_at, NEW.changed_at),
      JSON_OBJECT('status', OLD.status, 'revoked_at', OLD.revoked_at, 'reason', OLD.reason,
        'invalidity_date', OLD.invalidity_date, 'holder', OLD.holder, 'medium', OLD.medium,
        'renews', HEX(OLD.renews), 'shard', OLD.shard, 'ca', OLD.ca),
      JSON_OBJECT('status', NEW.status, 'revoked_at', NEW.revoked_at, 'reason', NEW.reason,
        'invalidity_date', NEW.invalidity_date, 'holder', NEW.holder, 'medium', NEW.medium,
        'renews', HEX(NEW.renews), 'shard', NEW.shard, 'ca', NEW.ca));
  END IF;
  IF seen OR hashed THEN
    INSERT INTO changes(issuer, serial) VALUES (NEW.issuer, NEW.serial);
  END IF;
END;

CREATE TRIGGER IF NOT EXISTS certificates_delete BEFORE DELETE ON certificates FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'certificates are never deleted: an issued serial must stay answerable; revoke it instead';

CREATE TRIGGER IF NOT EXISTS events_insert BEFORE INSERT ON events FOR EACH ROW BEGIN
  -- The triggers of certificates say the moment that stands in the row.
  DECLARE changed BIGINT DEFAULT (SELECT changed_at FROM certificates WHERE issuer = NEW.issuer AND serial = NEW.serial);
  IF EXISTS (SELECT 1 FROM events WHERE id = NEW.id) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this event is there already and events never change: INSERT without id';
  ELSEIF changed IS NULL THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events tell of certificates that are in the database: INSERT the certificate first';
  ELSEIF NEW.recorded_at NOT IN (UNIX_TIMESTAMP(), changed) OR (NEW.id <> 0 AND NEW.id < (SELECT MAX(id) FROM events)) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are recorded now and in order: leave id and recorded_at out';
  END IF;
  SET NEW.recorded_at = COALESCE(NEW.recorded_at, UNIX_TIMESTAMP());
END;

CREATE TRIGGER IF NOT EXISTS events_update BEFORE UPDATE ON events FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events never change: correct the certificate by an UPDATE with actor, which writes a new event';

CREATE TRIGGER IF NOT EXISTS events_delete BEFORE DELETE ON events FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are never deleted: they are the record of who did what when';

CREATE TRIGGER IF NOT EXISTS changes_insert BEFORE INSERT ON changes FOR EACH ROW BEGIN
  IF NEW.seq <> 0 AND NEW.seq <= (SELECT MAX(seq) FROM changes) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'readers have gone past this seq and would not see it: INSERT without seq';
  END IF;
  SET NEW.at = UNIX_TIMESTAMP();
END;

CREATE TRIGGER IF NOT EXISTS changes_update BEFORE UPDATE ON changes FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the change log is not changed: INSERT another row to have a certificate read again';

CREATE TRIGGER IF NOT EXISTS changes_delete BEFORE DELETE ON changes FOR EACH ROW
IF NOT EXISTS (SELECT 1 FROM changes WHERE seq > OLD.seq) THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the newest change stays: trim with seq < (SELECT max(seq) FROM changes)';
END IF;

CREATE TRIGGER IF NOT EXISTS changes_deleted AFTER DELETE ON changes FOR EACH ROW
UPDATE meta SET trimmed = OLD.seq WHERE trimmed < OLD.seq;
