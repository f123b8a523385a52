//! The programs' log lines, as the demo shows them.

/// Fields that repeat what the message says.
const REPEATED: [&str; 3] = [" group=", " project=", " branch="];

/// How much of a commit id is shown.
const COMMIT_CHARACTERS: usize = 10;

/// The field with a duration, which is shown in milliseconds.
const SECONDS: &str = "seconds";

/// A log line with the time alone, without the fields that repeat its message, and with short commit ids and numbers. Any
/// other line is as it was.
pub fn shortened(line: &str) -> String {
    let Some(line) = from_the_time_on(line) else { return line.to_owned() };
    let mut line = line;
    for field in REPEATED {
        if let Some(start) = line.find(field) {
            let value = start + field.len();
            // A value with blanks is in quotes.
            let length = match line[value..].strip_prefix('"') {
                Some(quoted) => quoted.find('"').map(|end| end + 2),
                None => line[value..].find(' '),
            };
            line.replace_range(start..length.map_or(line.len(), |length| value + length), "");
        }
    }
    let words = line.split(' ').map(|word| match word.split_once('=') {
        Some((name, id)) if id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{name}={}", &id[..COMMIT_CHARACTERS])
        }
        Some((SECONDS, number)) if let Ok(number) = number.parse::<f64>() => format!("{SECONDS}={number:.3}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `2026-01-31T12:34:56.789012Z  INFO …` → `12:34:56  INFO …`
fn from_the_time_on(line: &str) -> Option<String> {
    let (time, rest) = line.split_once('Z')?;
    let (date, time) = time.split_once('T')?;
    let is_date = date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let second = time.get(..8).filter(|_| is_date)?;
    Some(format!("{second}{rest}"))
}

/// Whether it is the line at a program's start, with its settings, or at the end of a pass, with what it did in numbers.
pub fn is_of_settings_or_totals(line: &str) -> bool {
    [" starts ", " starts: ", " pass done"].iter().any(|text| line.contains(text))
}

/// Whether it is the line of a pass that had nothing to do.
pub fn is_of_a_quiet_pass(line: &str) -> bool {
    let idle = ["pass done published=0 retired=0 swept=0 ", "pass done delivered=0 "];
    line.contains(" INFO ") && idle.iter().any(|text| line.contains(text))
}
