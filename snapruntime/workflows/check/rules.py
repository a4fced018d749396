"""The rules: one table of what can be wrong. docs/snapshot-safety.md explains them in the same order."""

from __future__ import annotations

from snapruntime.values.findings import Rule

_TABLE = (
    Rule(
        "SR001", "shared-generator", "error",
        "a random generator is made at init",
        "Each copy goes on from the same state, so all of them draw the same numbers.",
        "Make it in the handler, or reseed it in an after-restore hook.",
    ),
    Rule(
        "SR002", "seeded-generator", "note",
        "a random generator is seeded with a fixed value at init",
        "Each copy draws the same sequence. That is what a fixed seed asks for, and rarely what many copies should do.",
        "Leave it where the sequence is meant to be reproducible; else do not seed it.",
    ),
    Rule(
        "SR003", "unique-value", "error",
        "a value that should be unique is made at init",
        "It is in the snapshot, so each copy has the same one: identifiers collide, tokens and nonces repeat.",
        "Make it in the handler, or anew in an after-restore hook.",
    ),
    Rule(
        "SR004", "captured-time", "warning",
        "the time is read and kept at init",
        "Copies have the time of the snapshot, hours or weeks ago: what expires by it has expired, ages are wrong.",
        "Read the clock in the handler, or in an after-restore hook.",
    ),
    Rule(
        "SR005", "dead-connection", "error",
        "a connection made at init is kept open",
        "The copy gets it closed, since two copies cannot share one connection; its first use fails.",
        "Close it in a before-snapshot hook and connect in an after-restore hook, or connect when it is first needed.",
    ),
    Rule(
        "SR006", "open-file", "note",
        "a file stays open since init",
        "Each copy has it open at the position of the snapshot. What is written to it stays in the copy's own /tmp.",
        "Open it where it is used, or read what is needed at init and close it.",
    ),
    Rule(
        "SR007", "temporary-file", "note",
        "a temporary file or folder is made at init",
        "Each copy has one of the same name and content in its own /tmp. A name taken for unique elsewhere is not.",
        "Make it in the handler where its name or content has to be its own.",
    ),
    Rule(
        "SR008", "running-thread", "note",
        "a thread runs since init",
        "It goes on in each copy from where it was: what it does once, each copy does; what it waits for may be past.",
        "Start it in an after-restore hook, or let it look at the clock and its connections again.",
    ),
    Rule(
        "SR009", "child-process", "warning",
        "a child process runs since init",
        "It is copied too, with its random state, its connections and what it was doing.",
        "Start it in an after-restore hook or in the handler.",
    ),
    Rule(
        "SR010", "event-loop", "note",
        "an asyncio event loop is made at init",
        "Its timers count from the snapshot and its connections are closed in each copy.",
        "Run the handler with asyncio.run(), or leave nothing scheduled or connected at the snapshot.",
    ),
    Rule(
        "SR011", "static-credentials", "warning",
        "credentials are read at init and kept",
        "They are in the snapshot's memory on disk, and the copies of weeks to come use them after they have expired.",
        "Let the client fetch them (a role, or an endpoint: --credentials), and refresh them in each copy.",
    ),
    Rule(
        "SR012", "filled-cache", "warning",
        "a cache keeps a value that init computed and that is different at each start",
        "Each copy answers from the cache of the snapshot: what should be fresh or unique is neither.",
        "Clear the cache in a before-snapshot hook (function.cache_clear()).",
    ),
    Rule(
        "SR013", "tls-session", "error",
        "a TLS session made at init is kept open",
        "The copies share its keys, and its connection is closed in each.",
        "Close it in a before-snapshot hook and connect in an after-restore hook, or connect when it is first needed.",
    ),
    Rule(
        "SR014", "host-identity", "warning",
        "the PID or host name is taken as an identity at init",
        "It is the same in each copy; the PID is 1 in all of them.",
        "Make an identity in an after-restore hook: uuid.uuid4().",
    ),
    Rule(
        "SR015", "unchecked-pool", "warning",
        "a connection pool hands out connections without a look whether they are alive",
        "Connections that it kept at the snapshot are dead in each copy; the first who gets one fails.",
        "Let the pool check (SQLAlchemy: pool_pre_ping=True; psycopg_pool: check=ConnectionPool.check_connection).",
        hook="postgresql",
    ),
    Rule(
        "SR016", "lost-seed", "note",
        "the generator that all share is seeded with a fixed value at init",
        "A restore reseeds it, since copies must not draw the same numbers: the fixed sequence is lost.",
        "Seed in the handler where the sequence has to be reproducible.",
    ),
    Rule(
        "SR020", "duplicated-output", "error",
        "the same in all copies, and different at each cold start",
        "It is what init made, or is drawn from what init made: each copy gives out the same one.",
        "Make it, or the generator that it is drawn from, in the handler, or anew in an after-restore hook.",
    ),
    Rule(
        "SR021", "fails-in-copies", "error",
        "the handler works after a cold start and fails in a copy",
        "Something that init left does not survive the snapshot.",
        "See the error; connections, child processes and devices are what most often does not come back.",
    ),
    Rule(
        "SR022", "dead-connection-used", "error",
        "the handler used a connection that had died",
        "It was made before the snapshot; the copy has it closed.",
        "Close it in a before-snapshot hook and connect in an after-restore hook.",
    ),
    Rule(
        "SR023", "slow-hook", "warning",
        "hooks take long",
        "Each copy waits for its after-restore hooks before its first answer; AWS ends them after 10 s.",
        "Leave what is not needed at once to the handler's first use of it.",
    ),
    Rule(
        "SR024", "dirty-memory", "note",
        "the first call writes to much of the snapshot's memory",
        "Each page that is written to is copied: time for the first answer, and memory that copies cannot share.",
        "Call the handler's code once in a before-snapshot hook, and freeze what the collector would touch.",
        hook="gc",
    ),
    Rule(
        "SR025", "no-snapshot", "error",
        "no snapshot can be made, or none comes back",
        "Each event needs a cold start.",
        "See the message.",
    ),
    Rule(
        "SR090", "bad-suppression", "warning",
        "a comment that should suppress a finding does not",
        "Who reads it later cannot know whether it still holds.",
        "Write `# snapruntime: ignore[SR003] REASON`.",
    ),
    Rule(
        "SR091", "not-looked-at", "warning",
        "a file or a process could not be looked at",
        "What is wrong there is not found.",
        "See the message; what else was found does not depend on it.",
    ),
)  # fmt: skip

RULES = {rule.id: rule for rule in _TABLE}
