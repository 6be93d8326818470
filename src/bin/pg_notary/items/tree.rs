//! Finds the items of a project.

use super::report::State;
use pg_notary::items::comment_style::CommentStyle;
use pg_notary::items::location::{extract_location_path, PROJECT_DIRECTORY};
use pg_notary::items::ItemType;
use pg_notary::regular_file;
use std::collections::BTreeSet;
use std::fs::{self, FileType};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// How many earlier places of an item are tried: few enough that a tree in which everything was modified is verified in
/// seconds.
pub const MOST_PLACES: usize = 1000;

/// A file or directory, and whether it is to be examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Absolute, through the base of the item's type.
    pub path: PathBuf,
    /// The same with no symbolic link in it, as it was when the tree was looked at.
    pub real_path: PathBuf,
    /// As the user would name it.
    pub shown: PathBuf,
    pub item_type: ItemType,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// To be signed or verified.
    Item,
    /// Not to be, with the state it is reported in and the reason.
    Other(State, String),
}

/// The directories that were looked into and those they are in, as locations of their type; the base itself is empty.
pub struct Directories(BTreeSet<(ItemType, String)>);

impl Directories {
    fn add(&mut self, item_type: ItemType, path: &Path) {
        let location = path.to_str().and_then(|path| extract_location_path(item_type, path).ok());
        let mut location = location.as_deref().unwrap_or_default();
        while self.0.insert((item_type, location.to_owned())) {
            location = location.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }

    /// Where the file that is at `path` now may have been, if it or a directory it is in was moved: locations of its
    /// type, the first [`MOST_PLACES`] of them.
    pub fn places_before(&self, item_type: ItemType, path: &Path) -> PlacesBefore {
        let location = path.to_str().and_then(|path| extract_location_path(item_type, path).ok()).unwrap_or_default();
        let directories = self.0.iter().filter(|(of_type, _)| *of_type == item_type);
        let mut places = directories.flat_map(|(_, directory)| {
            ends(&location).map(move |end| match directory.as_str() {
                "" => end.to_owned(),
                directory => format!("{directory}/{end}"),
            })
        });
        let first = places.by_ref().take(MOST_PLACES).collect();
        PlacesBefore { first, are_all: places.next().is_none() }
    }
}

/// Where a file may have been.
pub struct PlacesBefore {
    pub first: Vec<String>,
    /// Whether there are no more.
    pub are_all: bool,
}

/// `c`, `b/c` and `a/b/c` of `a/b/c`.
fn ends(location: &str) -> impl Iterator<Item = &str> {
    let starts = location.rmatch_indices('/').map(|(at, _)| at + 1).chain([0]);
    starts.map(|start| &location[start..])
}

/// Where to look for items of one type.
struct Root {
    item_type: ItemType,
    /// The base of the type, with no symbolic link in it.
    real_base: PathBuf,
    start: PathBuf,
    /// The same, with no symbolic link in it.
    real_start: PathBuf,
    /// What the user named, and the beginning of the paths of what is in it.
    named: (PathBuf, PathBuf),
}

/// What there is in some directories.
pub struct Tree {
    /// Each file once, sorted by path.
    pub found: Vec<Found>,
    pub directories: Directories,
}

impl Tree {
    /// Looks into `named`, whatever they are.
    ///
    /// # Errors
    /// If one of them is not there, or neither is an item or directory of items nor contains one. What cannot be read
    /// in them is no error here.
    pub fn read(named: &[PathBuf]) -> Result<Self, String> {
        let mut tree = Tree { found: Vec::new(), directories: Directories(BTreeSet::new()) };
        let mut all = Vec::new();
        for named in named {
            all.extend(Named::find(named)?.roots()?);
        }
        for root in &all {
            root.find(&all, &mut tree);
        }
        // A file that is named is an item, also where the directory that it is in, named as well, has none of that
        // name.
        let is_other = |found: &Found| matches!(found.kind, Kind::Other(..));
        tree.found.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| is_other(a).cmp(&is_other(b))));
        tree.found.dedup_by(|a, b| a.path == b.path);
        Ok(tree)
    }
}

/// What the user named, whatever it is.
struct Named<'a> {
    given: &'a Path,
    /// As the user named it, but absolute: a base or `.ai` that is a symbolic link shows only here.
    absolute: PathBuf,
    /// With no symbolic link in it.
    real: PathBuf,
}

impl<'a> Named<'a> {
    fn find(given: &'a Path) -> Result<Self, String> {
        Ok(Named {
            given,
            absolute: std::path::absolute(given).map_err(|error| failed(given, &error))?,
            real: real(given)?,
        })
    }

    fn roots(&self) -> Result<Vec<Root>, String> {
        let mut roots = self.roots_of_project()?;
        // A project can be in a base of another: then it is a directory of items as well, but its .ai is not.
        if roots.is_empty() || self.dot_ai().is_none() {
            roots.extend(self.root_in_base()?);
        }
        if roots.is_empty() {
            return Err(format!(
                "{}: it neither contains .ai/tools, .ai/directives or .ai/knowledge nor lies in one of them",
                self.given.display()
            ));
        }
        Ok(roots)
    }

    /// Its path if it is the `.ai` of a project.
    fn dot_ai(&self) -> Option<&Path> {
        let paths = [&self.real, &self.absolute].into_iter().map(PathBuf::as_path);
        paths.into_iter().find(|path| path.ends_with(PROJECT_DIRECTORY))
    }

    /// Where to look if it is or is in a base.
    fn root_in_base(&self) -> Result<Option<Root>, String> {
        let Some((item_type, base)) = base_above(&self.real).or_else(|| base_above(&self.absolute)) else {
            return Ok(None);
        };
        let Ok(below) = self.real.strip_prefix(real(&base)?) else { return Ok(None) };
        let project = real(base.ancestors().nth(2).unwrap_or(&base))?;
        let real_base = real_base(&project, item_type)?;
        // Collected, so that there is no slash behind the base itself.
        let start: PathBuf = project.join(item_type.base()).components().chain(below.components()).collect();
        let named = (self.given.to_owned(), start.clone());
        Ok(Some(Root { item_type, real_base, start, real_start: self.real.clone(), named }))
    }

    /// Where to look if it is a project or its `.ai`.
    fn roots_of_project(&self) -> Result<Vec<Root>, String> {
        let (project, start) = match self.dot_ai().and_then(Path::parent) {
            Some(project) => (real(project)?, real(project)?.join(PROJECT_DIRECTORY)),
            None => (self.real.clone(), self.real.clone()),
        };
        let named = (self.given.to_owned(), start);
        let mut roots = Vec::new();
        for item_type in ItemType::ALL {
            let start = project.join(item_type.base());
            // Either a file was named, or .ai is one: in both cases there is nothing in it.
            let is_nothing = |error: io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
            if fs::symlink_metadata(&start).is_err_and(is_nothing) {
                continue;
            }
            let real_base = real_base(&project, item_type)?;
            roots.push(Root { item_type, real_start: real_base.clone(), real_base, start, named: named.clone() });
        }
        Ok(roots)
    }
}

/// The base of the type in `project`, with no symbolic link in it; `project` has none.
fn real_base(project: &Path, item_type: ItemType) -> Result<PathBuf, String> {
    let base = project.join(item_type.base());
    let real_base = real(&base)?;
    if !real_base.starts_with(project) {
        return Err(format!("{}: a symbolic link that leaves {}", base.display(), project.display()));
    }
    Ok(real_base)
}

fn real(path: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The type of the last base that `path` is or is in, and the first base of that type, from which locations are
/// counted.
fn base_above(path: &Path) -> Option<(ItemType, PathBuf)> {
    let type_of = |path: &Path| ItemType::ALL.into_iter().find(|item_type| path.ends_with(item_type.base()));
    let item_type = path.ancestors().find_map(type_of)?;
    let base = path.ancestors().filter(|above| type_of(above) == Some(item_type)).last()?;
    Some((item_type, base.to_owned()))
}

impl Root {
    fn find(&self, all: &[Root], tree: &mut Tree) {
        if self.start.is_file() {
            tree.directories.add(self.item_type, self.start.parent().unwrap_or(&self.start));
            tree.found.push(self.found(self.start.clone(), Kind::Item));
            return;
        }
        let mut directories = vec![self.start.clone()];
        while let Some(directory) = directories.pop() {
            tree.directories.add(self.item_type, &directory);
            if let Err(error) = self.read_directory(&directory, all, &mut directories, &mut tree.found) {
                tree.found.push(self.found(directory, Kind::Other(State::Failed, error.to_string())));
            }
        }
    }

    fn read_directory(
        &self,
        directory: &Path,
        all: &[Root],
        below: &mut Vec<PathBuf>,
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, file_type) = (entry.path(), entry.file_type()?);
            if file_type.is_dir() && !is_left_out(&path) {
                below.push(path);
            } else if !holds_roots(&path, all) {
                let kind = self.kind(&path, file_type, all);
                found.push(self.found(path, kind));
            }
        }
        Ok(())
    }

    fn kind(&self, path: &Path, file_type: FileType, all: &[Root]) -> Kind {
        let skipped = |reason: &str| Kind::Other(State::Skipped, reason.to_owned());
        if file_type.is_symlink() {
            return self.link(path, all);
        }
        if is_left_out(path) {
            return skipped("hidden, __pycache__ or node_modules");
        }
        if !file_type.is_file() {
            return skipped("not a regular file");
        }
        match is_item(self.item_type, path) {
            Ok(true) => Kind::Item,
            Ok(false) => skipped(&format!("not a file of a {}", self.item_type)),
            Err(error) => Kind::Other(State::Failed, error.to_string()),
        }
    }

    /// Skips a link whose target is examined under its own name, or that offers no items. Refuses any other, and every
    /// link that leaves the base.
    fn link(&self, path: &Path, all: &[Root]) -> Kind {
        let refused = |reason: String| Kind::Other(State::Refused, reason);
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) => return refused(format!("a symbolic link without a target: {error}")),
        };
        if !target.starts_with(&self.real_base) {
            let base = self.item_type.base();
            return refused(format!("a symbolic link that leaves {base}, to {}", target.display()));
        }
        let what = format!("a symbolic link to {}", target.display());
        if !is_left_out(path) && self.offers_items(path, &target) && !self.is_looked_at(&target, all) {
            return refused(format!("{what}, which is outside the files that are examined"));
        }
        Kind::Other(State::Skipped, what)
    }

    /// Whether a program that follows the link finds items. The name of the link decides, which may differ from the
    /// target's.
    fn offers_items(&self, link: &Path, target: &Path) -> bool {
        target.is_dir() || (target.is_file() && is_item(self.item_type, link).unwrap_or(true))
    }

    /// Whether the target is examined under its own name, by way of any of the roots.
    fn is_looked_at(&self, target: &Path, all: &[Root]) -> bool {
        let is_in = |root: &Root| {
            let below = target.strip_prefix(&root.real_start);
            root.item_type == self.item_type
                && below.is_ok_and(|below| !below.iter().any(|name| is_left_out(Path::new(name))))
        };
        all.iter().any(is_in) && (target.is_dir() || is_item(self.item_type, target).unwrap_or(false))
    }

    fn found(&self, path: PathBuf, kind: Kind) -> Found {
        let (named, start) = &self.named;
        let shown = match path.strip_prefix(start) {
            Ok(below) if below.as_os_str().is_empty() => named.clone(),
            Ok(below) if named.as_os_str() == "." => below.to_owned(),
            Ok(below) => named.join(below),
            Err(_) => path.clone(),
        };
        let real_path = match path.strip_prefix(&self.start) {
            Ok(below) if !below.as_os_str().is_empty() => self.real_start.join(below),
            _ => self.real_start.clone(),
        };
        Found { path, real_path, shown, item_type: self.item_type, kind }
    }
}

/// Whether `path` is the `.ai` of a project that is looked at as well.
fn holds_roots(path: &Path, all: &[Root]) -> bool {
    path.ends_with(PROJECT_DIRECTORY) && all.iter().any(|root| root.start.starts_with(path))
}

fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".") || name == "__pycache__" || name == "node_modules"
}

/// Whether a file that the user did not name is an item.
fn is_item(item_type: ItemType, path: &Path) -> io::Result<bool> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match item_type {
        ItemType::Tool if CommentStyle::of_language(&extension).is_some() => Ok(true),
        ItemType::Tool => starts_as_program(path),
        ItemType::Directive | ItemType::Knowledge => Ok(matches!(extension.as_str(), "md" | "markdown")),
    }
}

fn starts_as_program(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    regular_file::open(path)?.take(2).read_to_end(&mut start)?;
    Ok(start == b"#!")
}
