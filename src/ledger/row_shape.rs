//! The columns that entries about rows cover, and what became of them in a later set of columns.
//!
//! A column is identified by its number, which stays when it is renamed, and which no other column of the table ever
//! gets. But in a table that was restored from a dump, columns have lower numbers if one before them had been dropped.
//! There, names identify them, as far as they can. If such a table inherits from
//! others, its columns can stand in another order: a dump puts those first that are inherited. Then numbers tell
//! nothing.

use std::collections::{HashMap, HashSet};

/// A column, as an entry about a shape states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeColumn {
    /// As in pg_attribute: it stays the same when the column is renamed.
    pub number: i16,
    pub name: String,
    pub type_name: String,
}

/// A column in an earlier and in a later set of columns.
pub type Pair<'a> = (&'a ShapeColumn, &'a ShapeColumn);

/// What became of the columns of an earlier set in a later one.
#[derive(Debug, PartialEq, Eq)]
pub enum Successors<'a> {
    /// Of each column in turn: the one that it is now, whatever its type, or none if it was dropped.
    Known(Vec<Option<&'a ShapeColumn>>),
    /// The table was restored, and its columns dropped or renamed since. Then neither numbers nor names tell. In one
    /// that inherits from others, this is also so if one was given another type.
    Unknown,
}

/// What is known of the table between an earlier and a later set of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableIdentity {
    /// It is still the same.
    Same,
    /// It may have been restored in between.
    PerhapsRestored,
    /// So it may, and it inherits from others.
    PerhapsReordered,
}

/// What each column of `earlier` is in `later`.
pub fn successors<'a>(earlier: &[ShapeColumn], later: &'a [ShapeColumn], table: TableIdentity) -> Successors<'a> {
    let numbers: HashMap<i16, &ShapeColumn> = later.iter().map(|other| (other.number, other)).collect();
    let by_number: Vec<_> = earlier.iter().map(|column| numbers.get(&column.number).copied()).collect();
    if table == TableIdentity::Same {
        return Successors::Known(by_number);
    }
    let names: HashMap<&str, &ShapeColumn> = later.iter().map(|other| (other.name.as_str(), other)).collect();
    let is_it = |column: &ShapeColumn, other: &ShapeColumn| match table {
        TableIdentity::PerhapsReordered => other.type_name == column.type_name,
        // A restore makes numbers lower, or leaves them as they are.
        _ => other.number <= column.number,
    };
    let named_so = |column: &ShapeColumn| names.get(column.name.as_str()).copied().filter(|other| is_it(column, other));
    let by_name: Vec<_> = earlier.iter().map(named_so).collect();
    if by_name.iter().all(Option::is_some) {
        return Successors::Known(by_name);
    }
    let has_moved = |(column, other): (&ShapeColumn, &Option<&ShapeColumn>)| {
        other.is_some_and(|other| other.number < column.number)
    };
    match table == TableIdentity::PerhapsReordered || earlier.iter().zip(&by_name).any(has_moved) {
        true => Successors::Unknown,
        false => Successors::Known(by_number),
    }
}

/// The columns that both have, with the same type: unless it was changed, a value has the same JSON in both. `None` if
/// it cannot be told which they are.
pub fn shared<'a>(earlier: &'a [ShapeColumn], later: &'a [ShapeColumn], table: TableIdentity) -> Option<Vec<Pair<'a>>> {
    let Successors::Known(now) = successors(earlier, later, table) else { return None };
    let pairs = earlier.iter().zip(now).filter_map(|(column, now)| Some((column, now?)));
    Some(pairs.filter(|(column, other)| column.type_name == other.type_name).collect())
}

/// The columns that have exchanged their names, two or more: each now has the name that another one had. `name_now` is
/// the present name of a column that is still there, going by its number.
pub fn exchanged<'a>(
    earlier: &'a [ShapeColumn],
    table: TableIdentity,
    name_now: impl Fn(&ShapeColumn) -> Option<&'a str>,
) -> Vec<&'a str> {
    if table == TableIdentity::PerhapsReordered {
        return Vec::new();
    }
    let renamed = |column: &'a ShapeColumn| Some((column.name.as_str(), name_now(column)?));
    let mut renamed: HashMap<&str, &str> =
        earlier.iter().filter_map(renamed).filter(|(before, now)| before != now).collect();
    // No two columns have one name. So from name to name, each renaming is on a way that comes back to where it began,
    // or on one that begins with a name that no column has now.
    let taken: HashSet<&str> = renamed.values().copied().collect();
    let given_up: Vec<&str> = renamed.keys().copied().filter(|name| !taken.contains(name)).collect();
    for begin in given_up {
        let mut next = Some(begin);
        while let Some(name) = next {
            next = renamed.remove(name);
        }
    }
    earlier.iter().map(|column| column.name.as_str()).filter(|name| renamed.contains_key(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 id int, 2 paid int`.
    fn shape(columns: &str) -> Vec<ShapeColumn> {
        let column = |text: &str| {
            let mut words = text.split_whitespace().map(str::to_owned);
            let number = words.next().unwrap().parse().unwrap();
            ShapeColumn { number, name: words.next().unwrap(), type_name: words.next().unwrap() }
        };
        columns.split(',').map(column).collect()
    }

    #[track_caller]
    fn assert_shared(table: TableIdentity, earlier: &str, later: &str, expected: Option<&[(&str, &str)]>) {
        let (earlier, later) = (shape(earlier), shape(later));
        let names = |(column, other): &Pair| (column.name.clone(), other.name.clone());
        let found: Option<Vec<_>> = shared(&earlier, &later, table).map(|pairs| pairs.iter().map(names).collect());
        let owned = |(column, other): &(&str, &str)| ((*column).to_owned(), (*other).to_owned());
        assert_eq!(found, expected.map(|pairs| pairs.iter().map(owned).collect()));
    }

    #[track_caller]
    fn assert_exchanged(earlier: &str, later: &str, expected: &[&str]) {
        let (earlier, later) = (shape(earlier), shape(later));
        let now = |column: &ShapeColumn| later.iter().find(|now| now.number == column.number);
        let name_now = |column: &ShapeColumn| now(column).map(|now| now.name.as_str());
        assert_eq!(exchanged(&earlier, TableIdentity::Same, name_now), expected);
        assert_eq!(exchanged(&earlier, TableIdentity::PerhapsRestored, name_now), expected);
        assert_eq!(exchanged(&earlier, TableIdentity::PerhapsReordered, name_now), [""; 0]);
    }

    #[test]
    fn a_column_is_shared_whatever_its_name_if_it_has_its_type() {
        let earlier = "1 id int, 2 paid int, 3 due int, 4 note text";
        let ids = ("id", "id");
        let assert = |later: &str, expected: &[(&str, &str)]| {
            assert_shared(TableIdentity::Same, earlier, later, Some(expected));
        };
        assert(
            "1 id int, 2 paid int, 3 due int, 4 note text, 5 more int",
            &[ids, ("paid", "paid"), ("due", "due"), ("note", "note")],
        );
        assert(
            "1 id int, 2 was int, 3 paid int, 4 note text",
            &[ids, ("paid", "was"), ("due", "paid"), ("note", "note")],
        );
        assert("1 id int, 2 paid text, 3 due int", &[ids, ("due", "due")]);
        // Dropped and added again, with another one renamed.
        assert("1 id int, 2 paid int, 3 rest int, 5 note text", &[ids, ("paid", "paid"), ("due", "rest")]);
        // Renamed to what another one was called, which was dropped.
        assert("1 id int, 2 due int, 4 note text", &[ids, ("paid", "due"), ("note", "note")]);
    }

    #[test]
    fn in_a_restored_table_the_names_tell_which_columns_are_shared() {
        let earlier = "2 id int, 3 a int, 4 b int";
        let assert = |later: &str, expected: Option<&[(&str, &str)]>| {
            assert_shared(TableIdentity::PerhapsRestored, earlier, later, expected);
        };
        let same: &[_] = &[("id", "id"), ("a", "a"), ("b", "b")];
        assert("1 id int, 2 a int, 3 b int", Some(same));
        // Here each number is that of some column.
        assert("1 id int, 2 a int, 3 b int, 4 c int", Some(same));
        // No number is that of the column that it was.
        assert("1 id int, 2 a int, 4 c int", None);
        assert("1 id int, 3 b int", None);
        // Each number is that of a column with the type that it had, and of another one.
        assert("1 id int, 2 a int, 3 d int, 4 c int", None);
        assert("1 id int, 2 c int, 3 b int, 4 d int", None);
    }

    #[test]
    fn in_a_restored_table_that_inherits_only_names_tell_which_columns_are_shared() {
        let earlier = "1 a int, 2 b int, 3 c int";
        let assert = |later: &str, expected: Option<&[(&str, &str)]>| {
            assert_shared(TableIdentity::PerhapsReordered, earlier, later, expected);
        };
        let same: &[_] = &[("a", "a"), ("b", "b"), ("c", "c")];
        assert(earlier, Some(same));
        // One that the parent got later stands before those of the table.
        assert("1 a int, 2 z int, 3 b int, 4 c int", Some(same));
        assert("1 c int, 2 a int, 3 b int", Some(same));
        assert("1 a int, 2 b int", None);
        assert("1 a int, 2 b int, 3 d int", None);
        assert("1 a int, 2 b int, 3 c text", None);
    }

    /// The successors' numbers, 0 for a dropped column.
    #[track_caller]
    fn assert_successors(table: TableIdentity, earlier: &str, later: &str, expected: Option<&[i16]>) {
        let (earlier, later) = (shape(earlier), shape(later));
        let numbers = match successors(&earlier, &later, table) {
            Successors::Known(now) => Some(now.iter().map(|now| now.map_or(0, |now| now.number)).collect()),
            Successors::Unknown => None,
        };
        assert_eq!(numbers, expected.map(<[i16]>::to_vec));
    }

    #[test]
    fn a_column_keeps_its_number_whatever_becomes_of_its_name_and_type() {
        let earlier = "1 id int, 3 paid int, 4 due int";
        for (later, numbers) in [
            ("1 id int, 3 paid text, 4 due int, 5 more int", [1, 3, 4]),
            ("1 id int, 3 due int, 4 paid int", [1, 3, 4]),
            ("1 id int, 3 a int, 4 b text", [1, 3, 4]),
            // Dropped, and another one in its place, by name: a later one, an earlier one, one that is not covered.
            ("1 id int, 4 paid int", [1, 0, 4]),
            ("1 id int, 3 due int", [1, 3, 0]),
            ("1 id int, 2 due int, 3 paid int", [1, 3, 0]),
            ("1 id int, 4 due int, 5 paid int", [1, 0, 4]),
            ("1 id int, 2 paid int, 3 was int, 4 due int", [1, 3, 4]),
        ] {
            assert_successors(TableIdentity::Same, earlier, later, Some(&numbers));
        }
    }

    #[test]
    fn in_a_restored_table_a_column_keeps_its_name_or_it_is_not_known_which_it_is() {
        let assert = |earlier: &str, later: &str, expected: Option<&[i16]>| {
            assert_successors(TableIdentity::PerhapsRestored, earlier, later, expected);
        };
        let earlier = "2 id int, 3 a int, 4 b int";
        assert(earlier, "1 id int, 2 a int, 3 b int", Some(&[1, 2, 3]));
        // Altered since, so that each number is that of a column with the type that it had.
        assert(earlier, "1 id int, 2 a int, 3 b int, 4 c int", Some(&[1, 2, 3]));
        assert(earlier, "1 id int, 2 a int, 3 b text", Some(&[1, 2, 3]));
        assert(earlier, "1 id int, 2 a int", None);
        assert(earlier, "1 id int, 2 a int, 3 c int", None);
        assert("2 id int, 3 a text, 4 b text", "1 id int, 2 a text, 3 d text, 4 c text", None);
        assert(earlier, "1 id int, 2 a int, 3 d int, 4 c int", None);
        // The numbers are those of before, unless names speak against it.
        assert("1 id int, 2 a int, 3 b int", "1 id int, 2 c text, 3 b int", Some(&[1, 2, 3]));
        assert("1 id int, 2 a int, 3 b int", "1 id int, 3 d int", Some(&[1, 0, 3]));
        assert("1 id int, 2 a int, 3 b int", "1 id int, 2 b int, 3 a int", None);
    }

    #[test]
    fn names_are_exchanged_only_where_each_belongs_to_another_column_that_had_one() {
        let earlier = "1 id int, 2 paid int, 3 due int, 4 note text";
        assert_exchanged(earlier, "1 id int, 2 due int, 3 paid int, 4 note text", &["paid", "due"]);
        assert_exchanged(earlier, "1 id int, 2 due text, 3 paid int", &["paid", "due"]);
        assert_exchanged(earlier, "1 paid int, 2 due int, 3 id int, 4 note text", &["id", "paid", "due"]);
        assert_exchanged(earlier, earlier, &[]);
        // Renamed; one in the place of one that was renamed, dropped, or is to be dropped.
        assert_exchanged(earlier, "1 id int, 2 amount int, 3 due int, 4 note text", &[]);
        assert_exchanged(earlier, "1 id int, 2 paid_old int, 3 paid int, 4 note text", &[]);
        assert_exchanged(earlier, "1 id int, 3 paid int, 4 note text", &[]);
        assert_exchanged(earlier, "1 id int, 2 paid_old int, 3 due int, 4 note text, 5 paid int", &[]);
        // Two at once, and between them some that went on to names that nobody had, or that were given up.
        assert_exchanged(
            "1 a int, 2 b int, 3 c int, 4 d int, 5 e int, 6 f int, 7 g int",
            "1 b int, 2 a int, 3 d int, 4 new int, 5 f int, 6 g int, 7 e int",
            &["a", "b", "e", "f", "g"],
        );
        // Restored, with other numbers.
        assert_exchanged("2 id int, 3 a int, 4 b int", "1 id int, 2 a int, 3 b int", &[]);
    }
}
