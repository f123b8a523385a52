//! Equal lines, one after the other, are written once and counted.
//!
//! Invariant: no line is lost without being counted, and one that carries a measured time (`seconds`), or how a pass ended
//! (`pass`), is always written: it tells that something happened once more, and alerts may wait for it.

use std::fmt::{self, Debug};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// An equal line that comes later than this is written again.
const WINDOW: Duration = Duration::from_secs(60);
/// Fields of lines that are never folded.
const ALWAYS_WRITTEN: [&str; 2] = ["seconds", "pass"];

/// Writes each line with `inner`, unless it is folded.
pub(super) struct Folded<F> {
    pub(super) inner: F,
    pub(super) folds: std::sync::Arc<Folds>,
}

/// The last line, and how often it came again.
pub(super) struct Folds {
    format: LogFormat,
    last: Mutex<Option<Last>>,
}

struct Last {
    line: u64,
    written: Instant,
    more: usize,
}

impl Folds {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, last: Mutex::new(None) }
    }

    /// A line comes; `None` if it must not be folded. Whether to write it, and how often the one before came again.
    fn comes(&self, line: Option<u64>, now: Instant) -> (bool, usize) {
        let mut last = self.last.lock();
        if let (Some(last), Some(line)) = (last.as_mut(), line)
            && last.line == line
            && now.saturating_duration_since(last.written) < WINDOW
        {
            last.more += 1;
            return (false, 0);
        }
        let before = std::mem::replace(&mut *last, line.map(|line| Last { line, written: now, more: 0 }));
        (true, before.map_or(0, |before| before.more))
    }

    /// The line about the last one, if that came again.
    pub(super) fn end(&self) -> Option<String> {
        let more = self.last.lock().take().map_or(0, |last| last.more);
        (more > 0).then(|| self.about_the_last(more))
    }

    fn about_the_last(&self, more: usize) -> String {
        let mut time = String::new();
        // Writing to a String cannot fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let times = if more == 1 { "time" } else { "times" };
        let message = format!("the line before came {more} more {times}");
        match self.format {
            LogFormat::Text => format!("{time}  INFO {message} more={more}\n"),
            LogFormat::Json => {
                let fields = serde_json::json!({"timestamp": time, "level": "INFO", "message": message, "more": more});
                format!("{fields}\n")
            }
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Folded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (is_written, more) = self.folds.comes(fingerprint(event), Instant::now());
        if more > 0 {
            writer.write_str(&self.folds.about_the_last(more))?;
        }
        if is_written { self.inner.format_event(context, writer, event) } else { Ok(()) }
    }
}

/// Equal for equal lines. `None` for a line that is always written.
fn fingerprint(event: &Event<'_>) -> Option<u64> {
    let mut line = Line { hasher: DefaultHasher::new(), is_always_written: false };
    event.metadata().callsite().hash(&mut line.hasher);
    event.record(&mut line);
    (!line.is_always_written).then(|| line.hasher.finish())
}

struct Line {
    hasher: DefaultHasher,
    is_always_written: bool,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.is_always_written |= ALWAYS_WRITTEN.contains(&field.name());
        (field.name(), format!("{value:?}")).hash(&mut self.hasher);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn equal_lines_one_after_the_other_are_written_once_and_counted() {
        let (folds, now) = (Folds::new(LogFormat::Text), Instant::now());
        let comes = |line: u64| folds.comes(Some(line), now);
        assert_eq!([comes(1), comes(1), comes(1)], [(true, 0), (false, 0), (false, 0)]);
        assert_eq!([comes(2), comes(1)], [(true, 2), (true, 0)], "another line says how often the one before came");
        assert_eq!(folds.end(), None);
        assert_eq!((folds.comes(Some(3), now), folds.comes(Some(3), now)), ((true, 0), (false, 0)));
        let line = folds.end().unwrap();
        assert!(line.ends_with("  INFO the line before came 1 more time more=1\n"), "{line}");
        assert_eq!(folds.end(), None);
    }

    #[test]
    fn after_a_while_an_equal_line_is_written_again() {
        let (folds, now) = (Folds::new(LogFormat::Json), Instant::now());
        assert_eq!(folds.comes(Some(1), now), (true, 0));
        assert_eq!(folds.comes(Some(1), now + WINDOW - Duration::from_secs(1)), (false, 0));
        assert_eq!(folds.comes(Some(1), now + WINDOW), (true, 1));
        assert_eq!(folds.comes(Some(1), now + WINDOW + Duration::from_secs(1)), (false, 0));
        let line: serde_json::Value = serde_json::from_str(&folds.end().unwrap()).unwrap();
        assert_eq!((&line["level"], &line["more"]), (&"INFO".into(), &1.into()));
    }

    #[test]
    fn a_line_that_must_not_be_folded_is_always_written() {
        let (folds, now) = (Folds::new(LogFormat::Text), Instant::now());
        assert_eq!([folds.comes(None, now), folds.comes(None, now)], [(true, 0), (true, 0)]);
        assert_eq!([folds.comes(Some(1), now), folds.comes(Some(1), now)], [(true, 0), (false, 0)]);
        assert_eq!(folds.comes(None, now), (true, 1));
    }
}
