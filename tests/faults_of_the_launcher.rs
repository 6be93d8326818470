//! More databases with a ledger than there is room for: each is told so, and has its worker once there is room.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::{Client, NoTls};
use std::sync::{Arc, Mutex};

const TOO_MANY: &str = "too many databases with a ledger: at most 2 in one cluster";

/// Creates a database with a ledger; gives the warnings.
fn create_ledger(cluster: &Cluster, client: &mut Client, name: &str) -> (Client, Vec<String>) {
    client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let mut config = cluster.config(name);
    config.notice_callback(move |notice| heard.lock().unwrap().push(all_text(&notice)));
    let mut session = config.connect(NoTls).unwrap();
    session.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let warnings = warnings.lock().unwrap().clone();
    (session, warnings)
}

#[test]
fn a_ledger_too_many_is_told_so_and_has_a_worker_once_another_one_is_gone() {
    let (cluster, mut client) = start(Options::new().env("PG_NOTARY_FAULT_DATABASES", "2"));
    let (mut second, warnings) = create_ledger(&cluster, &mut client, "second");
    assert_eq!(warnings, Vec::<String>::new());
    record(&mut second);
    drop(second);

    let (mut third, warnings) = create_ledger(&cluster, &mut client, "third");
    assert!(warnings.len() == 1 && warnings[0].contains(TOO_MANY), "{warnings:?}");
    assert!(warnings[0].contains("DROP DATABASE"), "{warnings:?}");
    wait_until("nobody is connected", PATIENCE, || client.batch_execute("DROP DATABASE second").is_ok());
    // Nobody has recorded there.
    worker_pid(&mut third);
    record(&mut third);
    assert_intact(&mut third);

    let (mut fourth, _) = create_ledger(&cluster, &mut client, "fourth");
    let refused = error(&mut fourth, RECORD);
    assert_eq!(*refused.code(), SqlState::CONFIGURATION_LIMIT_EXCEEDED);
    let text = all_text(&refused);
    assert!(text.contains(TOO_MANY) && text.contains("DROP DATABASE"), "{text}");
    let problem = format!("starts_with(problem, '{TOO_MANY}')");
    assert!(is_true(&mut fourth, &format!("(SELECT state = 'failed' AND {problem} FROM ledger.mirror_status)")));
    third.batch_execute("DROP EXTENSION pg_notary").unwrap();
    worker_pid(&mut fourth);
    record(&mut fourth);
    seal(&mut fourth);
    assert_intact(&mut fourth);
    record(&mut client);
    assert_intact(&mut client);
}

/// The worker that looks into it says so.
#[test]
fn a_ledger_too_many_is_named_in_the_log_of_each_start() {
    let (cluster, mut client) = start(Options::new().env("PG_NOTARY_FAULT_DATABASES", "2"));
    for name in ["second", "third"] {
        create_ledger(&cluster, &mut client, name);
    }
    drop(client);
    cluster.stop(Stop::Fast);
    let before = cluster.log().len();
    cluster.start_again();
    // Which of them has no room is not said: they come in no order.
    let named =
        ["postgres", "second", "third"].map(|name| format!("Nothing can be recorded or sealed in database \"{name}\""));
    wait_until("the log names it", PATIENCE, || named.iter().any(|name| cluster.log()[before..].contains(name)));
}
