//! A list as a table: a line for each destination, with what leads to its commit.
//!
//! Invariant: on a terminal of 80 columns or more, no line is wider than that.

use std::cmp::Reverse;
use std::time::SystemTime;

use unicode_width::UnicodeWidthStr;

use super::signatures::{Signatures, of_all};
use crate::bucket::Foreign;
use crate::config::Sort;
use crate::model::key::{Destination, HeldObject};
use crate::plan::chain::{Chain, chain};
use crate::terminal::{self, Paint};
use crate::text::{human_bytes, objects, printable, rough_duration, short_commit, shortened, since, table, timestamp};

/// The narrowest column of names.
const LEAST_NAME_COLUMNS: usize = 10;

/// How it is shown.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) now: SystemTime,
    /// Times instead of ages.
    pub(super) dates: bool,
    /// The width of the terminal, if there is one.
    pub(super) columns: Option<usize>,
    pub(super) paint: Paint,
}

/// One destination, and its objects.
struct Row<'a> {
    destination: &'a Destination,
    /// What counts. `None` if no object has a whole history.
    chain: Option<Chain<'a>>,
    /// The rest, the oldest first.
    outdated: Vec<&'a HeldObject>,
}

impl<'a> Row<'a> {
    /// Of the objects of one destination, at least one.
    fn new(objects: &[&'a HeldObject]) -> Option<Self> {
        let destination = &objects.first()?.name.destination;
        let chain = chain(objects);
        let mut outdated = match &chain {
            Some(chain) => chain.others(objects).collect(),
            None => objects.to_vec(),
        };
        outdated.sort_by_key(|object| (object.last_modified, &object.key));
        Some(Self { destination, chain, outdated })
    }

    fn bytes(&self) -> u64 {
        let rest = || self.outdated.iter().map(|object| object.bytes).sum();
        self.chain.as_ref().map_or_else(rest, Chain::bytes)
    }

    /// When the commit was written that counts.
    fn written(&self) -> Option<SystemTime> {
        let newest = || self.outdated.iter().map(|object| object.last_modified).max();
        self.chain.as_ref().map(|chain| chain.tip().last_modified).or_else(newest)
    }

    fn cells(&self, signatures: Option<&Signatures>, style: Style) -> Vec<String> {
        let (commit, format) = match &self.chain {
            None => ("-".to_owned(), "no whole".to_owned()),
            Some(chain) => {
                let whole = chain.whole.name.content;
                let format = match chain.increments.len() {
                    0 => whole.to_string(),
                    more => format!("{whole} +{more}"),
                };
                (short_commit(&chain.tip().name.commit), format)
            }
        };
        let written = self.written().map_or_else(String::new, |written| style.time(written));
        let cells = vec![self.destination.to_string(), commit, format, human_bytes(self.bytes()), written];
        let counting = || self.chain.iter().flat_map(Chain::objects);
        cells.into_iter().chain(signatures.map(|of| of_all(counting().filter_map(|it| of.get(&it.key))))).collect()
    }
}

impl Style {
    fn time(self, time: SystemTime) -> String {
        if !self.dates {
            return rough_duration(since(time, self.now));
        }
        let text = timestamp(time).unwrap_or_default();
        text.get(..16).unwrap_or_default().replace('T', " ")
    }
}

/// A bucket by destination.
pub(super) struct Rows<'a>(Vec<Row<'a>>);

impl<'a> Rows<'a> {
    pub(super) fn of(held: &'a [HeldObject]) -> Self {
        let mut sorted: Vec<&HeldObject> = held.iter().collect();
        sorted.sort_by_key(|object| (&object.name.destination, object.last_modified, &object.key));
        let destinations = sorted.chunk_by(|a, b| a.name.destination == b.name.destination);
        Self(destinations.filter_map(Row::new).collect())
    }

    /// The objects that count.
    pub(super) fn counting(&self) -> Vec<&'a HeldObject> {
        self.0.iter().filter_map(|row| row.chain.as_ref()).flat_map(Chain::objects).collect()
    }

    /// The table; nothing if there is no object. `outdated`: what does not count any more, below its destination.
    /// `signatures`: in a column of their own.
    pub(super) fn text(&self, sort: Sort, outdated: bool, signatures: Option<&Signatures>, style: Style) -> String {
        let mut rows: Vec<&Row<'_>> = self.0.iter().collect();
        if rows.is_empty() {
            return String::new();
        }
        match sort {
            Sort::Name => {}
            Sort::Size => rows.sort_by_key(|row| Reverse(row.bytes())),
            Sort::Age => rows.sort_by_key(|row| Reverse(row.written())),
        }
        let time = if style.dates { "WRITTEN (UTC)" } else { "AGE" };
        let heads = ["DESTINATION", "COMMIT", "FORMAT", "SIZE", time];
        let heads = heads.into_iter().chain(signatures.map(|_| "SIGNED BY"));
        let mut cells = vec![heads.map(str::to_owned).collect::<Vec<_>>()];
        for row in rows {
            cells.push(row.cells(signatures, style));
            for object in row.outdated.iter().filter(|_| outdated) {
                let HeldObject { name, last_modified, bytes, .. } = object;
                let (commit, content) = (short_commit(&name.commit), name.content.to_string());
                let bytes = human_bytes(*bytes);
                let outdated = vec!["  outdated".to_owned(), commit, content, bytes, style.time(*last_modified)];
                cells.push(outdated.into_iter().chain(signatures.map(|of| of_all(of.get(&object.key)))).collect());
            }
        }
        if let Some(columns) = style.columns {
            fit(&mut cells, columns);
        }
        let table = table("", &cells);
        let (heads, rest) = table.split_once('\n').unwrap_or((&table, ""));
        format!("{}\n{rest}", style.paint.text(terminal::Style::Bold, heads))
    }

    /// One line about all of it.
    pub(super) fn summary(&self, foreign: &Foreign) -> String {
        let (mut all, mut outdated, mut total) = (0, 0, 0);
        for Row { chain, outdated: rest, .. } in &self.0 {
            let counting = chain.iter().flat_map(Chain::objects);
            let sizes = counting.chain(rest.iter().copied()).map(|object| object.bytes);
            outdated += rest.len();
            (all, total) = sizes.fold((all, total), |(all, total), bytes| (all + 1, total + bytes));
        }
        let named = match self.0.len() {
            1 => "1 destination".to_owned(),
            more => format!("{more} destinations"),
        };
        let (all, total) = (objects(all), human_bytes(total));
        format!("{named}, {all}, {total}; {outdated} outdated, {} foreign\n", foreign.count)
    }
}

/// Shortens names so that each line fits.
fn fit(cells: &mut [Vec<String>], columns: usize) {
    let width = |column: usize| cells.iter().map(|row| row[column].width()).max().unwrap_or_default();
    let others: usize = (1..cells[0].len()).map(|column| 2 + width(column)).sum();
    let most = columns.saturating_sub(others).max(LEAST_NAME_COLUMNS);
    for row in cells {
        row[0] = shortened(&printable(&row[0]), most);
    }
}

/// The names of foreign objects, a line each.
pub(super) fn foreign_names(Foreign { count, examples }: &Foreign) -> String {
    let names: String = examples.iter().map(|name| format!("foreign: {}\n", printable(name))).collect();
    match count.saturating_sub(examples.len()) {
        0 => names,
        more => format!("{names}foreign: {more} more\n"),
    }
}

/// The objects themselves in this order, of each destination the oldest first.
pub(super) fn sort_objects(held: &mut [HeldObject], sort: Option<Sort>) {
    held.sort_by(|a, b| {
        (&a.name.destination, a.last_modified, &a.key).cmp(&(&b.name.destination, b.last_modified, &b.key))
    });
    match sort {
        None | Some(Sort::Name) => {}
        Some(Sort::Size) => held.sort_by_key(|object| Reverse(object.bytes)),
        Some(Sort::Age) => held.sort_by_key(|object| Reverse(object.last_modified)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::super::signatures::Signature;
    use super::*;
    use crate::model::key::{self, ArchiveFormat, CommitId};
    use crate::model::manifest::{KeyId, Origin};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn destination(project: &str) -> Destination {
        Destination { group: "far/group".into(), project: project.into(), branch: "main".into() }
    }

    fn object(key: String, age: u64, bytes: u64) -> HeldObject {
        let last_modified = NOW + Duration::from_secs(1_000_000) - Duration::from_secs(age);
        HeldObject { name: key::decode(&key).unwrap(), key, last_modified, bytes }
    }

    fn commit(n: u8) -> CommitId {
        CommitId::from_bytes([n; 20])
    }

    fn whole(project: &str, n: u8, age: u64, bytes: u64) -> HeldObject {
        object(key::encode(&destination(project), commit(n), ArchiveFormat::Zip).unwrap(), age, bytes)
    }

    fn increment(project: &str, base: u8, n: u8, age: u64, bytes: u64) -> HeldObject {
        object(key::encode_increment(&destination(project), commit(base), commit(n)).unwrap(), age, bytes)
    }

    fn style(columns: Option<usize>, dates: bool) -> Style {
        Style { now: NOW + Duration::from_secs(1_000_000), dates, columns, paint: Paint::on(&null()) }
    }

    /// A stream that is not a terminal.
    fn null() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }

    fn bucket() -> Vec<HeldObject> {
        vec![
            increment("api", 1, 2, 60, 1 << 10),
            whole("api", 1, 90_000, 3 << 20),
            whole("api", 9, 200_000, 2 << 20),
            increment("api", 2, 3, 5, 1 << 10),
            whole("web", 4, 7_300, 8 << 20),
            increment("lone", 5, 6, 30, 77),
        ]
    }

    #[test]
    fn each_destination_is_a_line_with_its_chain_behind_it() {
        let held = bucket();
        let shown = Rows::of(&held).text(Sort::Name, false, None, style(None, false));
        let expected = "\
DESTINATION          COMMIT      FORMAT    SIZE     AGE
far/group/api@main   0303030303  zip +2    3.0 MiB  5 s
far/group/lone@main  -           no whole  77 B     30 s
far/group/web@main   0404040404  zip       8.0 MiB  2 h
";
        assert_eq!(shown, expected);
        let foreign = Foreign { count: 3, examples: vec!["a\u{1b}".into(), "b".into()] };
        assert_eq!(Rows::of(&held).summary(&foreign), "3 destinations, 6 objects, 13.0 MiB; 2 outdated, 3 foreign\n");
        assert_eq!(foreign_names(&foreign), "foreign: a\\u{1b}\nforeign: b\nforeign: 1 more\n");
        assert_eq!(Rows::of(&[]).text(Sort::Name, false, None, style(None, false)), "");
    }

    #[test]
    fn what_does_not_count_any_more_is_shown_below_its_destination_on_request() {
        let shown = Rows::of(&bucket()).text(Sort::Name, true, None, style(None, true));
        let expected = "\
DESTINATION          COMMIT      FORMAT     SIZE     WRITTEN (UTC)
far/group/api@main   0303030303  zip +2     3.0 MiB  1970-01-12 13:46
  outdated           0909090909  zip        2.0 MiB  1970-01-10 06:13
far/group/lone@main  -           no whole   77 B     1970-01-12 13:46
  outdated           0606060606  increment  77 B     1970-01-12 13:46
far/group/web@main   0404040404  zip        8.0 MiB  1970-01-12 11:45
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_list_is_sorted_by_name_by_size_or_by_age() {
        let held = bucket();
        let order = |sort| {
            let shown = Rows::of(&held).text(sort, false, None, style(None, false));
            let name = |line: &str| line.split('@').next().unwrap().rsplit('/').next().unwrap().to_owned();
            shown.lines().skip(1).map(name).collect::<Vec<_>>()
        };
        assert_eq!(order(Sort::Name), ["api", "lone", "web"]);
        assert_eq!(order(Sort::Size), ["web", "api", "lone"]);
        assert_eq!(order(Sort::Age), ["api", "lone", "web"]);
    }

    #[test]
    fn the_worst_of_a_chain_is_what_its_line_says_and_fits() {
        let held = bucket();
        let [key, other] = [1, 2].map(|byte| KeyId::from_bytes([byte; 8]));
        let signed = |key| Signature::Good(Origin::Signed { key });
        let (refused, unknown) = (Signature::Refused("no".into()), Signature::Unknown("away".into()));
        for (whole, tip, expected) in [
            (signed(key), signed(key), "0101010101010101"),
            (signed(other), signed(key), "0101010101010101 +1"),
            (Signature::Good(Origin::Unsigned), signed(key), "unsigned"),
            (unknown.clone(), Signature::Good(Origin::Unsigned), "unknown"),
            (refused, unknown, "refused"),
        ] {
            let of = |key: &str| held.iter().position(|object| object.key == key).unwrap();
            let chain = Rows::of(&held).counting();
            let [base, middle, last] = &chain[..3] else { panic!("{chain:?}") };
            assert!(of(&base.key) == 1 && of(&last.key) == 3);
            let signatures: Signatures = [(base, &whole), (middle, &tip), (last, &tip)]
                .map(|(object, it)| (object.key.clone(), it.clone()))
                .into();
            for dates in [false, true] {
                let shown = Rows::of(&held).text(Sort::Name, false, Some(&signatures), style(Some(80), dates));
                assert!(shown.lines().nth(1).unwrap().ends_with(&format!("  {expected}")), "{shown}");
                assert!(shown.lines().all(|line| line.width() <= 80), "{shown}");
            }
        }
    }

    #[test]
    fn a_line_fits_the_terminal_and_a_name_loses_its_start() {
        let long = "project-with-a-long-name-".repeat(5);
        let held = [whole(&long, 1, 1, 1_000_000_000_000), whole("日本", 2, 90_000_000, 10)];
        for dates in [false, true] {
            for columns in [80, 90, 120] {
                let shown = Rows::of(&held).text(Sort::Name, false, None, style(Some(columns), dates));
                assert!(shown.lines().all(|line| line.width() <= columns), "{columns}\n{shown}");
                assert!(shown.contains("…") && shown.contains("long-name-@main"), "{shown}");
            }
            assert!(Rows::of(&held).text(Sort::Name, false, None, style(None, dates)).contains(&long));
        }
    }
}
