//! A cluster starts with the library loaded, and the extension can be created in it.
#![cfg(feature = "cluster-tests")]

use crate::common::Cluster;

#[test]
fn the_extension_loads() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let version: String =
        client.query_one("SELECT extversion FROM pg_extension WHERE extname = 'pg_notary'", &[]).unwrap().get(0);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}
