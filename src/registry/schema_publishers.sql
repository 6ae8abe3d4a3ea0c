-- Since several Jarchys may read one database, it says which of them makes an issuer's CRLs: two with state stores
-- of their own would give one number to two lists.

CREATE TABLE publishers(
  -- Written by the Jarchy that publishes, every minute; another does once this is ten minutes old, or after
  -- `jarchy crl take-over`.
  issuer TEXT NOT NULL PRIMARY KEY, -- issuers.name
  store TEXT NOT NULL,              -- the identity of the state store that it keeps numbers and lists in
  process TEXT NOT NULL,            -- which process, made at random; empty after a take-over until one begins
  host TEXT NOT NULL,               -- where it runs, for people
  number INTEGER NOT NULL,          -- the highest CRLNumber that was given out
  renewed_at INTEGER NOT NULL       -- when it last said so
) STRICT, WITHOUT ROWID;
