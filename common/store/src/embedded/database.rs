//! The SQL: one table of keys, one of counters.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kilonova_model::Revision;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::mark::Mark;
use crate::page::{self, PageRequest};
use crate::txn::Revisions;
use crate::{KeyValue, LeaseId, Page, StoreError};

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE kv (
        key BLOB PRIMARY KEY,
        value BLOB NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        lease INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX kv_lease ON kv (lease) WHERE lease <> 0;
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counter VALUES ('revision', 1);
    PRAGMA user_version = 1;
";

/// Opens the file for the one writer, making the tables if it is new.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let opened = || {
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        // 40 MB of log between checkpoints: fewer, larger ones cost a group commit less.
        db.pragma_update(None, "wal_autocheckpoint", 10_000)?;
        db.pragma_update(None, "cache_size", -64 * 1024)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            let tx = db.transaction()?;
            tx.execute_batch(SCHEMA)?;
            tx.commit()?;
            return Ok((db, SCHEMA_VERSION));
        }
        Ok((db, version))
    };
    match opened().map_err(|error| from_sqlite(&error))? {
        (db, SCHEMA_VERSION) => Ok(db),
        (_, version) => Err(StoreError::corrupt(format!(
            "{} has the form {version}, this program knows {SCHEMA_VERSION}",
            path.display()
        ))),
    }
}

/// The number drawn when the store was made; drawn now if it is of a time that drew none.
pub(super) fn identity(db: &Connection) -> rusqlite::Result<i64> {
    db.execute("INSERT OR IGNORE INTO counter VALUES ('identity', ?1)", [rand::random_range(1..i64::MAX)])?;
    drawn(db)
}

fn drawn(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT value FROM counter WHERE name = 'identity'", [], |row| row.get(0))
}

/// Draws another number, for a store that has less than it had; it is durable.
pub(super) fn draw_identity(db: &Connection) -> rusqlite::Result<i64> {
    let drawn = rand::random_range(1..i64::MAX);
    db.execute("UPDATE counter SET value = ?1 WHERE name = 'identity'", [drawn])?;
    checkpoint(db)?;
    Ok(drawn)
}

/// Copies the log into the database, without waiting for anybody; false if some of it could not be.
pub(super) fn checkpoint(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
    })
}

/// Copies a database, which others may write meanwhile, as it is at one moment.
pub(super) fn copy(from: &Path, to: &Path) -> rusqlite::Result<()> {
    open_reader(from)?.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    Ok(())
}

/// Which database it is, at which revision, and how many keys it has.
pub(super) fn count(path: &Path) -> rusqlite::Result<(Mark, u64)> {
    let db = open_reader(path)?;
    let keys: i64 = db.query_row("SELECT count(*) FROM kv", [], |row| row.get(0))?;
    Ok((reached(&db)?, keys.unsigned_abs()))
}

/// Which database it is, and at which revision, of a file that nobody writes. Makes no log beside it.
pub(super) fn at_rest(path: &Path) -> rusqlite::Result<Mark> {
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?;
    reached(&db)
}

fn reached(db: &Connection) -> rusqlite::Result<Mark> {
    Ok(Mark { identity: drawn(db)?, revision: revision(db)? })
}

/// Opens the file for reading.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(db)
}

pub(super) fn revision(db: &Connection) -> rusqlite::Result<Revision> {
    db.prepare_cached("SELECT value FROM counter WHERE name = 'revision'")?
        .query_row([], |row| Ok(Revision(row.get::<_, i64>(0)?.unsigned_abs())))
}

pub(super) fn set_revision(db: &Connection, revision: Revision) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE counter SET value = ?1 WHERE name = 'revision'")?.execute([sql(revision)])?;
    Ok(())
}

/// What a compare looks at.
pub(super) fn revisions_of(db: &Connection, key: &str) -> rusqlite::Result<Revisions> {
    let found = db
        .prepare_cached("SELECT create_revision, mod_revision FROM kv WHERE key = ?1")?
        .query_row([key.as_bytes()], |row| Ok(Revisions { create: rev(row, 0)?, modified: rev(row, 1)? }))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Writes a key and returns its create revision.
pub(super) fn put(
    db: &Connection,
    key: &str,
    value: &[u8],
    lease: Option<LeaseId>,
    revision: Revision,
) -> rusqlite::Result<Revision> {
    db.prepare_cached(
        "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET
            value = excluded.value, mod_revision = excluded.mod_revision, lease = excluded.lease
         RETURNING create_revision",
    )?
    .query_row(params![key.as_bytes(), value, sql(revision), lease.map_or(0, |lease| lease.0)], |row| {
        rev(row, 0)
    })
}

/// Deletes a key; false when there was none.
pub(super) fn delete(db: &Connection, key: &str) -> rusqlite::Result<bool> {
    Ok(db.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key.as_bytes()])? > 0)
}

/// The keys of one lease.
pub(super) fn keys_of(db: &Connection, lease: LeaseId) -> rusqlite::Result<Vec<String>> {
    let mut select = db.prepare_cached("SELECT key FROM kv WHERE lease = ?1 AND lease <> 0 ORDER BY key")?;
    let keys = select.query_map([lease.0], |row| text(row, 0))?;
    keys.collect()
}

/// Deletes the keys of all leases; false when there were none.
pub(super) fn delete_leased(db: &Connection) -> rusqlite::Result<bool> {
    Ok(db.execute("DELETE FROM kv WHERE lease <> 0", [])? > 0)
}

pub(super) fn get(db: &Connection, key: &str) -> rusqlite::Result<(Option<KeyValue>, Revision)> {
    let read = db.unchecked_transaction()?;
    let item = read
        .prepare_cached("SELECT key, value, create_revision, mod_revision, lease FROM kv WHERE key = ?1")?
        .query_row([key.as_bytes()], key_value)
        .optional()?;
    let revision = revision(&read)?;
    Ok((item, revision))
}

/// Reads one page at the current revision.
pub(super) fn page(db: &Connection, request: &PageRequest) -> rusqlite::Result<Page> {
    let read = db.unchecked_transaction()?;
    let more = i64::try_from(request.limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut items = range(&read, request, more)?;
    let revision = revision(&read)?;
    let mut next = None;
    if items.len() > request.limit {
        items.truncate(request.limit);
        next = items.last().map(|last| page::next_token(&last.key, revision));
    }
    Ok(Page { items, revision, next })
}

/// Reads everything in the range at one revision.
pub(super) fn everything(
    db: &Connection,
    request: &PageRequest,
) -> rusqlite::Result<(Vec<KeyValue>, Revision)> {
    let read = db.unchecked_transaction()?;
    let items = range(&read, request, -1)?;
    Ok((items, revision(&read)?))
}

fn range(db: &Connection, request: &PageRequest, limit: i64) -> rusqlite::Result<Vec<KeyValue>> {
    // No byte of a key is 0xff, for keys are UTF-8.
    let end = request.end.as_deref().unwrap_or(&[u8::MAX]);
    let mut select = db.prepare_cached(
        "SELECT key, value, create_revision, mod_revision, lease FROM kv
         WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
    )?;
    let items = select.query_map(params![request.start, end, limit], key_value)?;
    items.collect()
}

fn key_value(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        key: text(row, 0)?,
        value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        create_revision: rev(row, 2)?,
        mod_revision: rev(row, 3)?,
        leased: row.get::<_, i64>(4)? != 0,
    })
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error)))
}

fn rev(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(row.get::<_, i64>(column)?.unsigned_abs()))
}

fn sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).expect("a counter that starts at 1 does not reach 2^63")
}

/// For a call that did not commit.
pub(super) fn from_sqlite(error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        rusqlite::Error::FromSqlConversionFailure(..) => StoreError::corrupt(error),
        error if matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)) => {
            StoreError::corrupt(error)
        }
        error => StoreError::unavailable(error),
    }
}
