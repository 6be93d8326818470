//! `pg_notary items sync`: the items in a tree of files, compared with the registry in a database.

use super::map_all;
use super::process::{Action, Local, Processor};
use super::report::{Record, State};
use super::sync_report::{Comparison, Outcome, SyncReport};
use super::tree::Tree;
use crate::output::{complain, print};
use crate::UNREADABLE;
use pg_notary::items::comparison::SyncStatus;
use pg_notary::items::registration::ItemName;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls, Row};
use serde_json::Value;
use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

/// A server that does not answer must not hold up the program for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct SyncArguments {
    /// The database with the registry, as postgresql://USER@HOST:PORT/DATABASE or as KEY=VALUE pairs.
    ///
    /// The role must be a member of ledger_writer or ledger_auditor. A password is better given in the environment
    /// variable PGPASSWORD, since others can see arguments. The connection is not encrypted; with sslmode=require it is
    /// refused.
    #[arg(long, value_name = "URL")]
    database: String,
    #[command(flatten)]
    items: super::ItemsArguments,
}

/// Runs the command, and gives its exit status.
pub fn run(arguments: &SyncArguments) -> u8 {
    match compare(arguments) {
        Ok(report) => {
            let text = if arguments.items.json { format!("{}\n", report.to_json()) } else { report.describe() };
            print(&text, report.exit_status())
        }
        Err(message) => {
            complain(&message);
            UNREADABLE
        }
    }
}

fn compare(arguments: &SyncArguments) -> Result<SyncReport, String> {
    // Read first, so that a connection string given in place of a directory is not shown.
    let config = read_config(&arguments.database, std::env::var("PGPASSWORD").ok())?;
    let Tree { found, directories } = Tree::read(&arguments.items.directories)?;
    let processor = Processor::new(Action::Verify, &arguments.items.default_version, directories);
    let surveyed = map_all(found, |found| processor.survey(found));
    let (files, others) = one_of_each(surveyed);
    let rows = ask(&config, &files.iter().map(|file| file.item.to_json()).collect())?;
    let compared = rows.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
    Ok(SyncReport::new(join(files, compared)?, others))
}

/// `given`, with `password` if it has none.
fn read_config(given: &str, password: Option<String>) -> Result<Config, String> {
    // The error does not say what is wrong: that could show a part of the password.
    let unreadable =
        "the connection string of --database cannot be read: give it as postgresql://USER@HOST:PORT/DATABASE, \
                      with %XX for special characters; sslmode can be disable, prefer or require";
    let mut config: Config = given.parse().map_err(|_| unreadable.to_owned())?;
    if let (None, Some(password)) = (config.get_password(), password) {
        config.password(password);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_application_name().is_none() {
        config.application_name("pg_notary items sync");
    }
    Ok(config)
}

/// Asks the registry about `files`, the JSON that `ledger.registry_sync` takes.
fn ask(config: &Config, files: &Value) -> Result<Vec<Row>, String> {
    let describe = |what: &str, reason: &str| without_password(&format!("{what}: {reason}"), config);
    let mut config_with_notices = config.clone();
    // The server warns of a wrong secret, and says so if it has none.
    config_with_notices.notice_callback(|notice| complain(&format!("{}: {}", notice.severity(), notice.message())));
    let mut client: Client = config_with_notices
        .connect(NoTls)
        .map_err(|error| describe("cannot connect to the database", &reason(&error)))?;
    client.query("SELECT * FROM ledger.registry_sync($1::text::jsonb)", &[&files.to_string()]).map_err(|error| {
        let reason = match error.code() == Some(&SqlState::INVALID_SCHEMA_NAME) {
            true => format!("{} has no extension pg_notary", named(config)),
            false => reason(&error),
        };
        describe("cannot ask the registry", &reason)
    })
}

/// The database, as an error names it. Without a name of its own it has that of the user.
fn named(config: &Config) -> String {
    let name = config.get_dbname().or(config.get_user());
    name.map_or_else(|| "the database".to_owned(), |name| format!("database \"{name}\""))
}

/// What the server said, or else why it could not be asked.
fn reason(error: &postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => match said.hint() {
            Some(hint) => format!("{} ({hint})", said.message()),
            None => said.message().to_owned(),
        },
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

fn without_password(message: &str, config: &Config) -> String {
    match config.get_password().map(String::from_utf8_lossy) {
        Some(password) if !password.is_empty() => message.replace(password.as_ref(), "***"),
        _ => message.to_owned(),
    }
}

/// The files that can be asked about, each item once; and the other files.
fn one_of_each(surveyed: Vec<Result<Local, Box<Record>>>) -> (Vec<Local>, Vec<Record>) {
    let (mut files, mut others) = (Vec::<Local>::new(), Vec::new());
    let mut places = HashMap::new();
    for file in surveyed {
        let file = match file {
            Ok(file) => file,
            Err(record) => {
                others.push(*record);
                continue;
            }
        };
        let name = file.item.name.clone();
        if let Some(first) = places.get(&name).map(|at: &usize| &files[*at]) {
            let mut record = Record::new(file.shown, name.item_type);
            record.name(&name.id, &name.version);
            let reason = format!("the same id and version as {}", first.shown.display());
            others.push(record.in_state(State::Invalid, reason));
            continue;
        }
        places.insert(name, files.len());
        files.push(file);
    }
    (files, others)
}

/// Reads a row of `ledger.registry_sync`, which does not know the file by the user's name for it.
fn read_row(row: &Row) -> Result<Comparison, String> {
    let text = |column: &str| {
        row.try_get::<_, Option<String>>(column).map_err(|_| format!("the registry's answer has no text {column}"))
    };
    let word = |column: &str| text(column)?.ok_or_else(|| format!("the registry's answer has no {column}"));
    let status = word("status")?;
    Ok(Comparison {
        shown: None,
        name: ItemName {
            item_type: word("item_type")?.parse().map_err(|error| format!("the registry's answer: {error}"))?,
            id: word("item_id")?,
            version: word("version")?,
        },
        outcome: SyncStatus::parse(&status).map(Outcome::Status).ok_or_else(|| {
            format!("the registry's answer has the status {status:?}, which this program is too old to know")
        })?,
        local_path: text("local_path")?,
        registry_path: text("registry_path")?,
        local_hash: text("local_hash")?,
        registry_hash: text("registry_hash")?,
        detail: text("detail")?,
    })
}

/// What the registry said, with the names of the files.
///
/// # Errors
/// If the registry said nothing about one of them, which must not pass for a match.
fn join(files: Vec<Local>, mut answers: Vec<Comparison>) -> Result<Vec<Comparison>, String> {
    let mut shown: HashMap<ItemName, PathBuf> = files.into_iter().map(|file| (file.item.name, file.shown)).collect();
    for item in &mut answers {
        item.shown = shown.remove(&item.name);
    }
    match shown.values().min() {
        Some(file) => Err(format!("the registry's answer does not mention {}", file.display())),
        None => Ok(answers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_notary::items::comparison::LocalItem;
    use pg_notary::items::ItemType;

    fn name(id: &str) -> ItemName {
        ItemName { item_type: ItemType::Tool, id: id.to_owned(), version: "1.0.0".to_owned() }
    }

    fn local(id: &str, path: &str) -> Local {
        let (integrity, text_hash) = ("1".repeat(64), "2".repeat(64));
        Local {
            shown: path.into(),
            item: LocalItem { name: name(id), location: path.to_owned(), integrity, text_hash },
        }
    }

    fn answer(id: &str) -> Comparison {
        Comparison {
            shown: None,
            name: name(id),
            outcome: Outcome::Status(SyncStatus::Match),
            local_path: None,
            registry_path: None,
            local_hash: None,
            registry_hash: None,
            detail: None,
        }
    }

    #[test]
    fn two_files_of_one_item_are_not_both_asked_about() {
        let skipped = Record::new("c.txt".into(), ItemType::Tool);
        let surveyed =
            vec![Ok(local("a", "a.py")), Err(Box::new(skipped)), Ok(local("a", "b/a.py")), Ok(local("b", "b.py"))];
        let (files, others) = one_of_each(surveyed);
        assert_eq!(files.iter().map(|file| file.item.location.as_str()).collect::<Vec<_>>(), ["a.py", "b.py"]);
        assert_eq!(others.len(), 2);
        assert_eq!(others[1].error(), Some("the same id and version as a.py"));
        assert_eq!(others[1].state, State::Invalid);
    }

    #[test]
    fn answers_find_their_files_whatever_their_order() {
        let files = vec![local("a", "a.py"), local("b", "b.py")];
        let answers = ["b", "c", "a"].map(answer).into();
        let shown: Vec<_> = join(files, answers).unwrap().into_iter().map(|compared| compared.shown).collect();
        assert_eq!(shown, [Some("b.py".into()), None, Some("a.py".into())]);
    }

    #[test]
    fn a_file_without_an_answer_is_an_error() {
        let joined = join(vec![local("a", "a.py"), local("b", "b.py")], vec![answer("a")]);
        assert_eq!(joined.err().as_deref(), Some("the registry's answer does not mention b.py"));
    }

    #[test]
    fn a_connection_string_that_cannot_be_read_is_not_shown() {
        for given in
            ["postgres://u:hunter2@h/d?x=hunter2", "password=hunter2 hunter2", "host=h sslmode=hunter2", "hunter2"]
        {
            let error = read_config(given, None).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_password_of_the_environment_is_for_strings_without_one() {
        let password = |given, of_environment: Option<&str>| {
            let config = read_config(given, of_environment.map(str::to_owned)).unwrap();
            config.get_password().map(|password| String::from_utf8(password.to_vec()).unwrap())
        };
        assert_eq!(password("postgres://u:a@h/d", Some("b")).as_deref(), Some("a"));
        assert_eq!(password("postgres://u@h/d", Some("b")).as_deref(), Some("b"));
        assert_eq!(password("postgres://u@h/d", None), None);
    }

    #[test]
    fn a_message_does_not_repeat_the_password() {
        let config = read_config("postgres://u:hunter2@h/d", None).unwrap();
        assert_eq!(without_password("no role hunter2", &config), "no role ***");
        let config = read_config("postgres://u@h/d", None).unwrap();
        assert_eq!(without_password("no role x", &config), "no role x");
    }
}
