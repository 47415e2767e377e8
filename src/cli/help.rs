//! What stands below the options in `--help`: what a command changes, what it prints, how it exits, and examples. Texts only.

pub(super) const PROGRAM: &str = "\
EXAMPLES
  export PGSLUICE_SOURCE__URL='postgresql://app@old-db/shop?sslmode=verify-full'
  export PGSLUICE_TARGET__URL='postgresql://app@shop-rw/shop?sslmode=require'
  pgsluice check           what could stop the migration, with remedies; changes nothing
  pgsluice run             copy, then follow the source until you cut over
  pgsluice status --watch  how far it is
  pgsluice tables          which tables are in the migration, and which are not, and why
  pgsluice verify          whether every row is the same on both sides, while traffic goes on
  pgsluice rehearse        how long the write pause would be
  pgsluice cutover         switch over, with a bound on the pause
  pgsluice rollback        back to the source, without loss, if you want to
  pgsluice cleanup         remove what the migration has made on both sides
  pgsluice demo            all of that between throwaway servers on this machine

OUTPUT
  Results go to standard output, logs and errors to standard error. With
  --output json standard output is one JSON document, whether the command
  succeeds or fails; a failure is {\"error\", \"remedy\", \"exit_code\"}. `status
  --watch` prints one document a line for each change.

EXIT CODES
  0  success
  1  the operation failed, and the source is still primary
  2  wrong usage or configuration, or something cannot be reached
  3  a check found a blocker, or a verification differences
  4  stopped for an operator's decision; nothing is lost, the message says what to decide

ENVIRONMENT
  PGSLUICE_SECTION__KEY sets the configuration's section.key, and wins over
  the file. PGSLUICE_CONFIG, PGSLUICE_LOG, PGSLUICE_LOG_FORMAT, PGSLUICE_API,
  PGSLUICE_TOKEN_FILE and PGSLUICE_CA_FILE stand for the options. NO_COLOR turns colours off.";

pub(super) const EXIT_CODES: &str = "\
EXIT CODES
  0  success
  1  the operation failed, and the source is still primary
  2  wrong usage or configuration, or something cannot be reached
  3  a check found a blocker, or a verification differences
  4  stopped for an operator's decision; nothing is lost, the message says what to decide";

pub(super) const CHECK: &str = "\
EXAMPLES
  pgsluice check
  pgsluice check --config shop.toml
  pgsluice check --output json | jq -r '.findings[] | select(.severity == \"blocker\") | .remedy'

WHAT IT CHANGES
  Nothing, on either side. What is to be pasted into psql, the configuration
  or a shell stands at the left edge; read it first: some remedies restart a
  server.

EXIT CODES
  0  nothing in the way; there may be warnings
  2  wrong configuration, or a side cannot be reached
  3  at least one blocker";

pub(super) const RUN: &str = "\
EXAMPLES
  pgsluice run --config shop.toml
  PGSLUICE_SNAPSHOT__JOBS=8 pgsluice run --config shop.toml --log-format json

WHAT IT CHANGES
  On the target: the tables, and schema pgsluice with its records. On the
  source: one publication and one replication slot, which keeps the source's
  WAL until the target has it, so watch its disk while pgsluice does not run.
  Nothing before the checks of `pgsluice check` are passed. `pgsluice cleanup`
  removes all of it but the tables.

EXIT CODES
  0  stopped by SIGTERM or SIGINT; the next start resumes
  1  something failed, and the source is still primary: start it again
  2  wrong configuration, or a side cannot be reached
  3  a check found a blocker; nothing was changed
  4  stopped for your decision; starting it again is safe, and stops again until you have decided";

pub(super) const STATUS: &str = "\
EXAMPLES
  pgsluice status
  pgsluice status --watch
  pgsluice status --output json | jq .lag.bytes
  pgsluice status --watch --output json | jq --unbuffered -r '\"\\(.phase) \\(.lag.seconds)\"'

EXIT CODES
  0  it has answered
  2  no instance answers there; with --watch --output json the last line says so";

pub(super) const TABLES: &str = "\
EXAMPLES
  pgsluice tables
  pgsluice tables --output json | jq '.tables[] | select(.reason != null)'
  pgsluice tables add public.orders_2027

EXIT CODES
  0  it has answered
  2  no instance answers there";

pub(super) const TABLES_ADD: &str = "\
EXAMPLES
  pgsluice tables add public.orders_2027
  pgsluice tables add public.a public.b --no-wait
  pgsluice tables add '\"Sales\".\"Order Lines\"'

WHAT IT CHANGES
  The tables are made on the target (with schema.mode = \"copy\"), join the
  publication and are copied; one replication slot more meanwhile. Nothing if
  it is refused.

EXIT CODES
  0  they have joined (with --no-wait: it is accepted)
  1  refused, or a try has failed: the message says why; it is tried again by itself
  2  no instance answers there";

pub(super) const VERIFY: &str = "\
EXAMPLES
  pgsluice verify
  pgsluice verify --share 100 --jobs 4   as fast as the servers can
  pgsluice verify --scope structure      columns, indexes, constraints, privileges alone
  pgsluice verify --show                 how far it is, or how the last one ended
  pgsluice verify --show --output json | jq '.rows[] | {table, kind, key}'
  pgsluice verify --stop
  pgsluice verify --repair               the rows that it has named, and then compare again
  pgsluice verify && pgsluice cutover

WHAT IT CHANGES
  Nothing on the source; on the target a row in pgsluice.verification, which
  `pgsluice cleanup` removes, and with --repair the rows that it has named. It reads every row on both sides, in the part of
  the time that --share allows, and holds a snapshot on each side for at most
  verify.max_snapshot_seconds. The stream halts for milliseconds now and then.

EXIT CODES
  0  clean: every row is the same, and so is the structure
  1  not everything was compared: refused, stopped, still running, or something is in the way
  2  no instance answers there
  3  rows differ, or the structure does: the report says which";

pub(super) const REHEARSE: &str = "\
EXAMPLES
  pgsluice rehearse
  pgsluice rehearse --max-pause-ms 300
  pgsluice rehearse --times 20 --every 60 --max-pause-ms 300   percentiles over twenty minutes

WHAT IT CHANGES
  Nothing in the end. Writers of the source wait as long as the rehearsal
  says, at most --max-pause-ms, and go on without an error. Clients are not
  moved.

EXIT CODES
  0  all completed
  1  one was rolled back, and the source goes on
  2  no instance answers there
  4  an operator has to decide";

pub(super) const CUTOVER: &str = "\
EXAMPLES
  pgsluice verify && pgsluice rehearse && pgsluice cutover
  pgsluice cutover --max-pause-ms 500
  pgsluice cutover --output json | jq '{outcome, pause_ms, reason}'

WHAT IT CHANGES
  The target becomes the primary: the source refuses writes from then on, and
  clients are moved by the adapters of [[traffic]]. Rolled back before the
  point of no return, nothing is changed. Refused, and nothing begun, unless
  the last verification is clean and young enough (verify.max_age_hours).

EXIT CODES
  0  completed: the target is the primary
  1  rolled back or refused: the source is the primary, as before
  2  no instance answers there; nothing was changed
  4  look at it: in doubt, or lost sight of. `pgsluice status` says where it is";

pub(super) const ABORT: &str = "\
EXAMPLES
  pgsluice abort

WHAT IT CHANGES
  A cutover or rehearsal that runs is rolled back, and writers of the source
  go on. Past the point of no return nothing.

EXIT CODES
  0  rolled back: the source is the primary, as before
  1  nothing was running
  2  no instance answers there
  4  too late: it has passed the point of no return, or its end is not known";

pub(super) const ROLLBACK: &str = "\
EXAMPLES
  pgsluice rollback --rehearse
  pgsluice rollback --max-pause-ms 500

WHAT IT CHANGES
  The source becomes the primary again, with everything that was written on
  the target. With --rehearse nothing.

EXIT CODES
  0  completed: the source is the primary again
  1  rolled back or refused: the target is the primary, as before
  2  no instance answers there; nothing was changed
  4  look at it: in doubt, or lost sight of. `pgsluice status` says where it is";

pub(super) const CONFIRM: &str = "\
EXAMPLES
  pgsluice confirm

WHAT IT CHANGES
  A cutover that waits in a `manual` traffic adapter goes on. Give the word
  only when clients are where the adapter's instructions say.

EXIT CODES
  0  the cutover has completed
  1  nothing waits, or the cutover was rolled back
  2  no instance answers there
  4  an operator has to decide";

pub(super) const CLEANUP: &str = "\
EXAMPLES
  pgsluice cleanup --dry-run
  pgsluice cleanup
  pgsluice cleanup --without-source   the source is gone for good

WHAT IT CHANGES
  Slots, publications, triggers and schema pgsluice go from both sides, and so
  does the way back. Your tables and rows stay. Stop `pgsluice run` first.
  After a cutover the fence of the source stays, so that nobody writes there
  by mistake.

EXIT CODES
  0  everything is removed, or listed
  1  something could not be removed; what was is told by a dry run
  2  wrong configuration, or a side cannot be reached";

pub(super) const DEMO: &str = "\
EXAMPLES
  pgsluice demo
  pgsluice demo --transactions 5000 --scale 0.1   a small one
  pgsluice demo --output json | jq '{pause_ms, missing_transactions, row_differences}'

WHAT IT CHANGES
  Nothing but its own servers and files, which are removed in the end, however
  it ends, and the report (--report).

EXIT CODES
  0  nothing was lost, doubled or different
  1  there is no result, or a judge has found something";

pub(super) const COMPLETIONS: &str = "\
EXAMPLES
  pgsluice completions bash > /etc/bash_completion.d/pgsluice
  pgsluice completions zsh > \"${fpath[1]}/_pgsluice\"
  pgsluice completions fish > ~/.config/fish/completions/pgsluice.fish";
