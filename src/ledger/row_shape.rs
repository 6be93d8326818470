//! The columns that entries about rows cover, and what became of them in a later set of columns.
//!
//! A column is identified by its number, which stays when it is renamed, and which no other column of the table ever
//! gets. But in a table that was restored from a dump, columns have lower numbers if one before them had been dropped.
//! There, names identify them.

use std::collections::HashMap;

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
    /// The table may have been restored, and its columns dropped or renamed since. Then neither numbers nor names tell.
    Unknown,
}

pub fn successors<'a>(earlier: &[ShapeColumn], later: &'a [ShapeColumn]) -> Successors<'a> {
    let all = |is_same: &dyn Fn(&ShapeColumn, &ShapeColumn) -> bool| -> Vec<Option<&'a ShapeColumn>> {
        earlier.iter().map(|column| later.iter().find(|other| is_same(column, other))).collect()
    };
    // In a table that was not restored, all names are found this way only if each is still that of the same column: new
    // columns have higher numbers.
    let by_name = all(&|column, other| column.name == other.name && other.number <= column.number);
    if by_name.iter().all(Option::is_some) {
        return Successors::Known(by_name);
    }
    let by_number = all(&|column, other| column.number == other.number);
    let is_lower = |(column, other): (&ShapeColumn, &Option<&ShapeColumn>)| {
        other.is_some_and(|other| other.number < column.number)
    };
    let may_be_restored = earlier.iter().zip(&by_name).any(is_lower);
    let has_its_type = |(column, other): (&ShapeColumn, &Option<&ShapeColumn>)| {
        other.is_some_and(|other| other.type_name == column.type_name)
    };
    match !may_be_restored || earlier.iter().zip(&by_number).all(has_its_type) {
        true => Successors::Known(by_number),
        false => Successors::Unknown,
    }
}

/// The columns that both have, with the same type: unless it was changed, a value has the same JSON in both. Where numbers
/// and names contradict each other, only the columns for which they agree.
pub fn shared<'a>(earlier: &'a [ShapeColumn], later: &'a [ShapeColumn]) -> Vec<Pair<'a>> {
    let pairs: Vec<Pair<'a>> = match successors(earlier, later) {
        Successors::Known(now) => earlier.iter().zip(now).filter_map(|(column, now)| Some((column, now?))).collect(),
        Successors::Unknown => {
            let is_same = |(column, other): &Pair| column.number == other.number && column.name == other.name;
            let pairs = earlier.iter().flat_map(|column| later.iter().map(move |other| (column, other)));
            pairs.filter(is_same).collect()
        }
    };
    pairs.into_iter().filter(|(column, other)| column.type_name == other.type_name).collect()
}

/// The columns that have exchanged their names, two or more: each now has the name that another one had. `name_now` is
/// the present name of a column that is still there.
pub fn exchanged<'a>(earlier: &'a [ShapeColumn], name_now: impl Fn(&ShapeColumn) -> Option<&'a str>) -> Vec<&'a str> {
    let renamed = |column: &'a ShapeColumn| Some((column.name.as_str(), name_now(column)?));
    let renamed: HashMap<&str, &str> =
        earlier.iter().filter_map(renamed).filter(|(before, now)| before != now).collect();
    // No two columns have one name, so this either ends or comes back to where it began.
    let comes_back = |name: &str| {
        let mut next = std::iter::successors(renamed.get(name), |name| renamed.get(**name)).take(renamed.len());
        next.any(|now| *now == name)
    };
    earlier.iter().map(|column| column.name.as_str()).filter(|name| comes_back(name)).collect()
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
    fn assert_shared(earlier: &str, later: &str, expected: &[(&str, &str)]) {
        let (earlier, later) = (shape(earlier), shape(later));
        let pairs = shared(&earlier, &later);
        let names: Vec<_> = pairs.iter().map(|(column, other)| (column.name.as_str(), other.name.as_str())).collect();
        assert_eq!(names, expected);
    }

    #[track_caller]
    fn assert_exchanged(earlier: &str, later: &str, expected: &[&str]) {
        let (earlier, later) = (shape(earlier), shape(later));
        let now = |column: &ShapeColumn| later.iter().find(|now| now.number == column.number);
        assert_eq!(exchanged(&earlier, |column| now(column).map(|now| now.name.as_str())), expected);
    }

    #[test]
    fn a_column_is_shared_whatever_its_name_if_it_has_its_type() {
        let earlier = "1 id int, 2 paid int, 3 due int, 4 note text";
        let ids = ("id", "id");
        assert_shared(
            earlier,
            "1 id int, 2 paid int, 3 due int, 4 note text, 5 more int",
            &[ids, ("paid", "paid"), ("due", "due"), ("note", "note")],
        );
        assert_shared(
            earlier,
            "1 id int, 2 was int, 3 paid int, 4 note text",
            &[ids, ("paid", "was"), ("due", "paid"), ("note", "note")],
        );
        assert_shared(earlier, "1 id int, 2 paid text, 3 due int", &[ids, ("due", "due")]);
        // Dropped and added again, with another one renamed.
        assert_shared(
            earlier,
            "1 id int, 2 paid int, 3 rest int, 5 note text",
            &[ids, ("paid", "paid"), ("due", "rest")],
        );
    }

    #[test]
    fn in_a_restored_table_the_names_tell_which_columns_are_shared() {
        let earlier = "2 id int, 3 a int, 4 b int";
        let same = [("id", "id"), ("a", "a"), ("b", "b")];
        assert_shared(earlier, "1 id int, 2 a int, 3 b int", &same);
        // Here each number is that of some column.
        assert_shared(earlier, "1 id int, 2 a int, 3 b int, 4 c int", &same);
        // No number is that of the column that it was.
        assert_shared(earlier, "1 id int, 2 a int, 4 c int", &[]);
        assert_shared(earlier, "1 id int, 3 b int", &[]);
        assert_shared("1 id int, 3 a int, 4 b int", "1 id int, 3 b int", &[("id", "id")]);
    }

    /// The successors' numbers, 0 for a dropped column.
    #[track_caller]
    fn assert_successors(earlier: &str, later: &str, expected: Option<&[i16]>) {
        let (earlier, later) = (shape(earlier), shape(later));
        let numbers = match successors(&earlier, &later) {
            Successors::Known(now) => Some(now.iter().map(|now| now.map_or(0, |now| now.number)).collect()),
            Successors::Unknown => None,
        };
        assert_eq!(numbers, expected.map(<[i16]>::to_vec));
    }

    #[test]
    fn a_column_keeps_its_number_whatever_becomes_of_its_name_and_type() {
        let earlier = "1 id int, 2 paid int, 3 due int";
        assert_successors(earlier, "1 id int, 2 paid text, 3 due int, 4 more int", Some(&[1, 2, 3]));
        assert_successors(earlier, "1 id int, 2 due int, 3 paid int", Some(&[1, 2, 3]));
        assert_successors(earlier, "1 id int, 2 a int, 3 b text", Some(&[1, 2, 3]));
        // Dropped, and another one in its place, by name.
        assert_successors(earlier, "1 id int, 3 paid int", Some(&[1, 0, 3]));
        assert_successors(earlier, "1 id int, 3 due int, 4 paid int", Some(&[1, 0, 3]));
    }

    #[test]
    fn in_a_restored_table_a_column_keeps_its_name_or_it_is_not_known_which_it_is() {
        let earlier = "2 id int, 3 a int, 4 b int";
        assert_successors(earlier, "1 id int, 2 a int, 3 b int", Some(&[1, 2, 3]));
        // Altered since, so that each number is that of a column with the type that it had.
        assert_successors(earlier, "1 id int, 2 a int, 3 b int, 4 c int", Some(&[1, 2, 3]));
        assert_successors(earlier, "1 id int, 2 a int, 3 b text", Some(&[1, 2, 3]));
        assert_successors(earlier, "1 id int, 2 a int", None);
        assert_successors(earlier, "1 id int, 2 a int, 3 c int", None);
        assert_successors("2 id int, 3 a text, 4 b text", "1 id int, 2 a text, 3 d text, 4 c text", None);
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
        // Restored, with other numbers.
        assert_exchanged("2 id int, 3 a int, 4 b int", "1 id int, 2 a int, 3 b int", &[]);
    }
}
