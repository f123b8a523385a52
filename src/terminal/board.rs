//! Progress at the bottom of a terminal, redrawn in place, while log lines scroll by above it.
//!
//! Invariant: nothing is drawn if standard error is not a terminal, and everything drawn is removed when the work is done.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;
use tracing_subscriber::fmt::MakeWriter;
use unicode_width::UnicodeWidthStr;

use super::takes_colour;
use crate::retries;
use crate::text::{human_bytes, printable, shortened};

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// How many items have a line each; the others are counted.
const MOST_LINES: usize = 10;
/// The widest name that is shown whole, in columns. A longer one loses its start, because its end says most.
const NAME_COLUMNS: usize = 48;
/// The width of the longest stage name.
const STAGE_COLUMNS: usize = 11;

/// The bottom of the terminal, if standard error is one.
#[derive(Debug, Clone)]
pub struct Board {
    /// `None`: nothing is drawn.
    bars: Option<MultiProgress>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// What is being done.
    pub title: String,
    /// How many items are done, and of how many, once that is known.
    pub done: Option<(u64, u64)>,
    /// The items under way.
    pub at_work: Vec<AtWork>,
}

/// One item under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    /// Its name.
    pub name: String,
    /// Its current stage.
    pub stage: &'static str,
    /// Bytes that this stage has moved.
    pub bytes: u64,
    /// How many there will be, if that is known.
    pub of: Option<u64>,
    /// Bytes per second.
    pub bytes_per_second: u64,
}

impl Board {
    /// For standard error, if that is `wanted` and it is a terminal that can be drawn on.
    pub fn new(wanted: bool) -> Self {
        let shown = wanted && takes_colour(&io::stderr());
        let target = ProgressDrawTarget::stderr_with_hz(u8::MAX);
        Self { bars: shown.then(|| MultiProgress::with_draw_target(target)) }
    }

    /// Does some work, and meanwhile draws what `look` returns, and which servers are asked again. Nothing is redrawn while the future blocks its thread.
    pub async fn during<T>(&self, look: impl Fn() -> Scene, work: impl Future<Output = T>) -> T {
        let Some(bars) = &self.bars else { return work.await };
        let mut drawing = Drawing::on(bars);
        let mut ticks = tokio::time::interval(REDRAW_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                _ = ticks.tick() => drawing.show(&look()),
            }
        }
    }
}

/// Log lines go to standard error, above what is drawn there.
impl MakeWriter<'_> for Board {
    type Writer = AboveBoard;

    fn make_writer(&self) -> Self::Writer {
        AboveBoard(self.bars.clone())
    }
}

/// Takes whole lines. If the terminal goes away, only lines are lost.
#[derive(Debug)]
pub struct AboveBoard(Option<MultiProgress>);

impl Write for AboveBoard {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &self.0 {
            None => io::stderr().write(buffer),
            Some(bars) => {
                let text = String::from_utf8_lossy(buffer);
                bars.println(text.strip_suffix('\n').unwrap_or(&text))?;
                Ok(buffer.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Scene {
    /// A scene with a title only.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), done: None, at_work: vec![] }
    }
}

/// What is on the terminal now; removed on drop.
struct Drawing<'a> {
    bars: &'a MultiProgress,
    whole: ProgressBar,
    lines: Vec<ProgressBar>,
}

impl<'a> Drawing<'a> {
    fn on(bars: &'a MultiProgress) -> Self {
        Self { bars, whole: bars.add(ProgressBar::no_length()), lines: vec![] }
    }

    fn show(&mut self, scene: &Scene) {
        let template = match scene.done {
            Some(_) => "{spinner:.green} [{bar:24.green}] {pos} of {len} {msg}  {elapsed_precise:.dim}",
            None => "{spinner:.green} {msg}  {elapsed_precise:.dim}",
        };
        if let Some((done, all)) = scene.done {
            self.whole.set_length(all);
            self.whole.set_position(done);
        }
        self.whole.set_style(style(template));
        self.whole.set_message(scene.title.clone());
        let mut texts = lines(&scene.at_work);
        texts.extend(retries::lines());
        while self.lines.len() > texts.len() {
            if let Some(line) = self.lines.pop() {
                self.bars.remove(&line);
            }
        }
        while self.lines.len() < texts.len() {
            self.lines.push(self.bars.add(ProgressBar::no_length().with_style(style("    {wide_msg}"))));
        }
        for (line, text) in self.lines.iter().zip(texts) {
            line.set_message(text);
        }
        self.whole.tick();
    }
}

impl Drop for Drawing<'_> {
    fn drop(&mut self) {
        for line in self.lines.drain(..).chain([self.whole.clone()]) {
            line.finish_and_clear();
            self.bars.remove(&line);
        }
    }
}

fn style(template: &'static str) -> ProgressStyle {
    // All templates are in this file; a wrong one would only look plain.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// A line for each item, in columns.
fn lines(at_work: &[AtWork]) -> Vec<String> {
    let shown = &at_work[..at_work.len().min(MOST_LINES)];
    let names: Vec<_> = shown.iter().map(|it| shortened(&printable(&it.name), NAME_COLUMNS)).collect();
    let widest = names.iter().map(|name| name.width()).max().unwrap_or_default();
    let line = |(it, name): (&AtWork, &String)| {
        let gap = " ".repeat(widest - name.width());
        let line = format!("{name}{gap}  {:STAGE_COLUMNS$}  {}", it.stage, it.amount());
        line.trim_end().to_owned()
    };
    let rest = at_work.len() - shown.len();
    let rest = (rest > 0).then(|| format!("and {rest} more"));
    shown.iter().zip(&names).map(line).chain(rest).collect()
}

impl AtWork {
    fn amount(&self) -> String {
        if self.bytes == 0 && self.of.is_none() {
            return String::new();
        }
        let bytes = human_bytes(self.bytes);
        let of = self.of.map_or_else(String::new, |of| format!(" of {}", human_bytes(of)));
        format!("{bytes}{of}, {}/s", human_bytes(self.bytes_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_work(name: &str, stage: &'static str, bytes: u64, of: Option<u64>) -> AtWork {
        AtWork { name: name.to_owned(), stage, bytes, of, bytes_per_second: 2 << 20 }
    }

    #[test]
    fn each_thing_at_work_has_a_line_in_columns() {
        let shown = lines(&[
            at_work("far/api@main", "uploading", 3 << 20, Some(5 << 20)),
            at_work("far/a@main", "fetching", 512, None),
            at_work("far/b@main", "verifying", 0, None),
        ]);
        assert_eq!(
            shown,
            [
                "far/api@main  uploading    3.0 MiB of 5.0 MiB, 2.0 MiB/s",
                "far/a@main    fetching     512 B, 2.0 MiB/s",
                "far/b@main    verifying",
            ]
        );
    }

    #[test]
    fn more_than_fit_are_counted() {
        let many: Vec<_> = (0..MOST_LINES + 3).map(|n| at_work(&format!("p{n}"), "fetching", 0, None)).collect();
        let shown = lines(&many);
        assert_eq!(shown.len(), MOST_LINES + 1);
        assert_eq!(shown[MOST_LINES], "and 3 more");
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn a_long_name_keeps_its_end_and_no_name_can_act_on_the_terminal() {
        let long = format!("{}/project@main", "文".repeat(60));
        let name = shortened(&long, NAME_COLUMNS);
        assert!(name.starts_with('…') && name.ends_with("/project@main"), "{name}");
        assert!((NAME_COLUMNS - 1..=NAME_COLUMNS).contains(&name.width()), "{name}: {}", name.width());
        let hostile = lines(&[at_work("far/\u{1b}[2J", "fetching", 0, None)]);
        assert!(!hostile[0].contains('\u{1b}'), "{hostile:?}");
    }
}
