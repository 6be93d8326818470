//! The parts of the install script that are SQL, in the order in which they must run.

use pgrx::extension_sql_file;

extension_sql_file!("../../sql/roles.sql", name = "roles", bootstrap);
extension_sql_file!("../../sql/tables.sql", name = "tables", requires = ["roles", postgres::new_ids::uuid_v7]);
extension_sql_file!("../../sql/triggers.sql", name = "triggers", requires = ["tables"]);
extension_sql_file!(
    "../../sql/views.sql",
    name = "views",
    requires = [
        "tables",
        postgres::views::mirror_state,
        postgres::views::worker_state,
        postgres::views::verification_progress
    ]
);
extension_sql_file!(
    "../../sql/partitions.sql",
    name = "partitions",
    requires = ["triggers", postgres::partitions::creation::make_first_partition]
);
extension_sql_file!("../../sql/tracking.sql", name = "tracking", requires = ["tables"]);
extension_sql_file!(
    "../../sql/items.sql",
    name = "items",
    requires = ["tables", postgres::items::cache::verifier_cache_state]
);
extension_sql_file!("../../sql/copy.sql", name = "copy", requires = ["tables"]);
extension_sql_file!("../../sql/grants.sql", name = "grants", finalize);
