//! The tables of the state store and how older stores get them.

use crate::db::Kind;

/// The state store as [`crate::db`] knows it.
pub const KIND: Kind = Kind {
    name: "state store",
    // "JyST".
    application_id: 0x4a79_5354,
    permissions: 0o600,
    migrations: &[
        r"
        CREATE TABLE revocations (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            not_before INTEGER NOT NULL,
            not_after INTEGER NOT NULL,
            revoked_at INTEGER NOT NULL,
            reason INTEGER NOT NULL,
            invalidity_date INTEGER,
            learned INTEGER NOT NULL,
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
        -- Serials of which a release from hold was the last that was recorded.
        CREATE TABLE releases (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
        -- ca: SHA-256 of name and key, so that another CA under the same scope is noticed.
        -- reserved: the highest CRL number that was ever given out.
        CREATE TABLE scopes (scope TEXT PRIMARY KEY, ca BLOB NOT NULL, reserved INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        -- Every list that was ever committed; kept: its file is still there. base is NULL for complete lists.
        CREATE TABLE lists (
            scope TEXT NOT NULL,
            number INTEGER NOT NULL,
            delta INTEGER NOT NULL CHECK (delta IN (0, 1) AND delta = (base IS NOT NULL)),
            base INTEGER CHECK (base < number),
            this_update INTEGER NOT NULL,
            next_update INTEGER NOT NULL,
            regular INTEGER NOT NULL CHECK (regular IN (0, 1)),
            sha256 BLOB NOT NULL,
            bytes INTEGER NOT NULL,
            entries INTEGER NOT NULL,
            kept INTEGER NOT NULL CHECK (kept IN (0, 1)),
            PRIMARY KEY (scope, number, delta)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX lists_kept ON lists (scope, number) WHERE kept = 1;
        -- The revision that last changed a serial, back to the oldest list that is still a base.
        CREATE TABLE journal (
            scope TEXT NOT NULL,
            serial BLOB NOT NULL,
            number INTEGER NOT NULL,
            released_at INTEGER,
            PRIMARY KEY (scope, serial)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX journal_number ON journal (scope, number);
    ",
        r"
        -- pruned: entries of certificates that ended before this second may have left the lists; NULL: none has.
        -- oldest: the first complete list that deltas still build on.
        ALTER TABLE scopes ADD COLUMN pruned INTEGER;
        ALTER TABLE scopes ADD COLUMN oldest INTEGER NOT NULL DEFAULT 0;
        UPDATE scopes SET pruned = (SELECT max(this_update) FROM lists WHERE lists.scope = scopes.scope AND regular = 1);
        -- added: octets that the store grew by. void: an operator's word took back what its times say.
        -- Lists of the first version were files; the next one starts afresh, with numbers that go on.
        ALTER TABLE lists ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE lists ADD COLUMN void INTEGER NOT NULL DEFAULT 0 CHECK (void IN (0, 1));
        UPDATE lists SET kept = 0;
        -- What stands before and after the entries of a list that is kept; a delta stands in head as a whole.
        CREATE TABLE bodies (
            scope TEXT NOT NULL,
            number INTEGER NOT NULL,
            delta INTEGER NOT NULL,
            head BLOB NOT NULL,
            tail BLOB NOT NULL,
            UNIQUE (scope, number, delta)
        ) STRICT;
        -- Entries of complete lists: a chunk belongs to the lists from number since on, and before until.
        -- place: sorts as the serials do.
        CREATE TABLE chunks (
            scope TEXT NOT NULL,
            place BLOB NOT NULL,
            sha256 BLOB NOT NULL,
            since INTEGER NOT NULL,
            until INTEGER,
            der BLOB NOT NULL
        ) STRICT;
        CREATE INDEX chunks_open ON chunks (scope, sha256) WHERE until IS NULL;
        CREATE INDEX chunks_life ON chunks (scope, since, until);
        CREATE INDEX chunks_over ON chunks (scope, until) WHERE until IS NOT NULL;
        -- Into how many shards an issuer's certificates were divided, by which rule: never another (CRL-70).
        CREATE TABLE divisions (issuer TEXT PRIMARY KEY, shards INTEGER NOT NULL, rule TEXT NOT NULL) STRICT, WITHOUT ROWID;
        -- What operators decided about numbers and the clock; only ever added to.
        CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at INTEGER NOT NULL,
            actor TEXT NOT NULL,
            what TEXT NOT NULL
        ) STRICT;
        -- The clock said seen when it should have said expected, and nobody has settled that yet.
        CREATE TABLE clock (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            seen INTEGER NOT NULL,
            expected INTEGER NOT NULL
        ) STRICT;
    ",
        r"
        -- Certificates that the database lost, and that an operator let go of. kept: it stays revoked.
        CREATE TABLE dropped (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            at INTEGER NOT NULL,
            kept INTEGER NOT NULL CHECK (kept IN (0, 1)),
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
    ",
        r"
        -- By what other nodes know whose lists these are.
        CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL) STRICT;
        INSERT INTO identity VALUES (1, lower(hex(randomblob(16))));
    ",
    ],
};
