//! The kinds of statements, as far as a session's state depends on them.

use super::setting::{Scope, Setting};

/// What a statement is. Names are folded as PostgreSQL folds identifiers: lower case unless quoted, at most 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// No statement at all: white space and comments.
    Empty,
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK TO.
    RollbackTo {
        /// The savepoint.
        savepoint: String,
    },
    /// SAVEPOINT.
    Savepoint {
        /// The savepoint.
        name: String,
    },
    /// RELEASE.
    Release {
        /// The savepoint.
        name: String,
    },
    /// PREPARE TRANSACTION: ends the transaction, and leaves it for any session.
    PrepareTransaction,
    /// COMMIT PREPARED, ROLLBACK PREPARED: of any session's transaction, outside a block.
    FinishPrepared,
    /// SET TRANSACTION, SET CONSTRAINTS: of this transaction only.
    SetTransaction,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION: sets the `default_transaction_*` settings.
    SetCharacteristics,
    /// SET of a setting; `TIME ZONE`, `NAMES`, `SCHEMA`, `XML OPTION` are given their settings' names.
    Set {
        /// How long it lasts.
        scope: Scope,
        /// The setting, folded; dots separate the parts of a custom one.
        name: String,
        /// Its new value.
        value: Setting,
    },
    /// SET ROLE, RESET ROLE, and SET of the setting `role`.
    SetRole {
        /// How long it lasts.
        scope: Scope,
        /// The role; `None` for NONE, DEFAULT and RESET.
        role: Option<String>,
    },
    /// SET SESSION AUTHORIZATION and its RESET.
    SetSessionAuthorization {
        /// How long it lasts.
        scope: Scope,
        /// The user; `None` for DEFAULT and RESET.
        user: Option<String>,
    },
    /// RESET of one setting.
    Reset {
        /// The setting.
        name: String,
    },
    /// RESET ALL.
    ResetAll,
    /// DISCARD.
    Discard(Discard),
    /// LISTEN.
    Listen {
        /// The channel.
        channel: String,
    },
    /// UNLISTEN.
    Unlisten {
        /// The channel; `None` for all.
        channel: Option<String>,
    },
    /// PREPARE name AS.
    Prepare {
        /// The statement's name.
        name: String,
    },
    /// DEALLOCATE.
    Deallocate {
        /// The statement's name; `None` for all.
        name: Option<String>,
    },
    /// EXECUTE name.
    Execute {
        /// The statement's name.
        name: String,
    },
    /// DECLARE name CURSOR.
    DeclareCursor {
        /// The cursor.
        name: String,
        /// WITH HOLD: it outlives its transaction.
        hold: bool,
    },
    /// FETCH, MOVE.
    Fetch,
    /// CLOSE.
    CloseCursor {
        /// The cursor; `None` for all.
        name: Option<String>,
    },
    /// LOAD.
    Load,
    /// CREATE of something in the session's temporary schema.
    CreateTemp,
    /// DROP.
    Drop,
    /// COPY … FROM STDIN: the client sends the rows.
    CopyIn,
    /// COPY … TO STDOUT: the server sends the rows.
    CopyOut,
    /// Starts like a read: SELECT, VALUES, TABLE, SHOW, EXPLAIN without ANALYZE, WITH without a word of writing in it.
    /// No proof: functions may write.
    Read,
    /// CALL.
    Call,
    /// DO.
    Do,
    /// Everything else.
    Write,
}

/// What DISCARD throws away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    /// ALL: the whole session state.
    All,
    /// PLANS: cached plans; nothing a client could see.
    Plans,
    /// SEQUENCES: what `currval` remembers.
    Sequences,
    /// TEMP, TEMPORARY: temporary tables.
    Temp,
}
