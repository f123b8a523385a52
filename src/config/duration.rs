//! Durations as Go reads them: the grammar of `time.ParseDuration`.
//!
//! Invariant: a text Go accepts gives the same number of nanoseconds here, and a text Go refuses is refused.

use std::time::Duration;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Every unit with its nanoseconds. The micro sign (U+00B5) and the Greek letter mu (U+03BC) look the same.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", MICROSECOND),
    ("\u{b5}s", MICROSECOND),
    ("\u{3bc}s", MICROSECOND),
    ("ms", MILLISECOND),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

/// The nanoseconds of the longest duration, which is a negative one.
const LONGEST: u64 = i64::MIN.unsigned_abs();

/// A signed duration in whole nanoseconds, at most about 292 years either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Empty, a sign alone, or a unit without a number before it.
    #[error("a number is missing")]
    NoNumber,
    /// A number without a unit; only `0` may stand alone.
    #[error("a unit (h, m, s, ms, us or ns) is missing")]
    NoUnit,
    /// A unit Go does not know; there is none for days.
    #[error("the unit {0:?} is none of h, m, s, ms, us and ns")]
    UnknownUnit(String),
    /// More nanoseconds than 64 bits hold.
    #[error("it is longer than 292 years")]
    TooLong,
}

impl GoDuration {
    /// The same as a standard duration, `None` for a negative one.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

/// Reads an optional sign and either `0` or one or more of number and unit: `300ms`, `-1.5h`, `1h30m`, `.5s`.
///
/// # Errors
/// [`DurationError`] for everything else, and for what does not fit 64 bits of nanoseconds.
pub fn parse(text: &str) -> Result<GoDuration, DurationError> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(GoDuration(0));
    }
    if unsigned.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let (mut nanos, mut rest) = (0, unsigned);
    while !rest.is_empty() {
        let (term, after) = leading_term(rest)?;
        (nanos, rest) = (bounded(term.checked_add(nanos))?, after);
    }
    let signed = if text.starts_with('-') { 0_i64.checked_sub_unsigned(nanos) } else { i64::try_from(nanos).ok() };
    signed.map(GoDuration).ok_or(DurationError::TooLong)
}

/// Reads one number and its unit: the nanoseconds, and the rest of the text.
fn leading_term(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole, rest) = leading_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), leading_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let unit_end = rest.find(|next: char| next == '.' || next.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    if unit.is_empty() {
        return Err(DurationError::NoUnit);
    }
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, unit) = *known.ok_or_else(|| DurationError::UnknownUnit(unit.to_owned()))?;
    let count = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
    let whole = bounded(count.and_then(|count| count.checked_mul(unit)))?;
    Ok((bounded(whole.checked_add(part_of(unit, fraction)))?, rest))
}

fn leading_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len()))
}

/// The nanoseconds in `unit` times the decimal fraction with these digits, rounded down.
///
/// Go computes in floating point, in this order; more exact arithmetic would differ in the last nanosecond. Go also
/// ignores all digits from the first one that does not fit into 63 bits.
fn part_of(unit: u64, digits: &str) -> u64 {
    let (mut fraction, mut scale) = (0_u64, 1_f64);
    for digit in digits.bytes() {
        let longer = fraction.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        let Ok(longer) = bounded(longer) else { break };
        fraction = longer;
        scale *= 10.0;
    }
    (fraction as f64 * (unit as f64 / scale)) as u64
}

fn bounded(nanos: Option<u64>) -> Result<u64, DurationError> {
    nanos.filter(|nanos| *nanos <= LONGEST).ok_or(DurationError::TooLong)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> Result<i64, DurationError> {
        parse(text).map(|GoDuration(nanos)| nanos)
    }

    const S: i64 = 1_000_000_000;

    #[test]
    fn accepts_what_go_accepts() {
        let accepted = [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("5s", 5 * S),
            ("+5s", 5 * S),
            ("-5s", -5 * S),
            ("1478s", 1478 * S),
            ("5.0s", 5 * S),
            ("5.6s", 5_600_000_000),
            ("5.s", 5 * S),
            (".5s", S / 2),
            ("-.5s", -S / 2),
            ("1.0040s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("300ms", 300_000_000),
            ("90s", 90 * S),
            ("15m", 900 * S),
            ("16h", 57_600 * S),
            ("1.5h", 5_400 * S),
            ("1h30m", 5_400 * S),
            ("3h30m", 12_600 * S),
            ("10.5s4m", 250_500_000_000),
            ("-2m3.4s", -123_400_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("39h9m14.425s", 140_954_425_000_000),
            ("52763797000ns", 52_763_797_000),
            ("1m1m", 120 * S),
            ("007s", 7 * S),
            ("0s", 0),
            ("0h0m", 0),
        ];
        for (text, expected) in accepted {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        let refused = [
            ("", DurationError::NoNumber),
            ("-", DurationError::NoNumber),
            ("+", DurationError::NoNumber),
            (".", DurationError::NoNumber),
            ("-.", DurationError::NoNumber),
            ("s", DurationError::NoNumber),
            (".s", DurationError::NoNumber),
            ("+.s", DurationError::NoNumber),
            ("--5s", DurationError::NoNumber),
            (" 5s", DurationError::NoNumber),
            ("hello \u{fffd} world", DurationError::NoNumber),
            ("\u{665}s", DurationError::NoNumber),
            ("3", DurationError::NoUnit),
            ("00", DurationError::NoUnit),
            ("0.0", DurationError::NoUnit),
            ("1h30", DurationError::NoUnit),
            ("1.2.3s", DurationError::NoUnit),
            ("1d", DurationError::UnknownUnit("d".into())),
            ("5x", DurationError::UnknownUnit("x".into())),
            ("5 s", DurationError::UnknownUnit(" s".into())),
            ("5s ", DurationError::UnknownUnit("s ".into())),
            ("5S", DurationError::UnknownUnit("S".into())),
            ("1h-30m", DurationError::UnknownUnit("h-".into())),
        ];
        for (text, expected) in refused {
            assert_eq!(nanos(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn reaches_to_both_ends_of_the_range_and_not_beyond() {
        for text in ["9223372036854775807ns", "9223372036854775.807us", "9223372036s854ms775us807ns"] {
            assert_eq!(nanos(text), Ok(i64::MAX), "{text}");
        }
        let smallest = [
            "-9223372036854775808ns",
            "-9223372036854775.808us",
            "-9223372036s854ms775us808ns",
            "-2562047h47m16.854775808s",
        ];
        for text in smallest {
            assert_eq!(nanos(text), Ok(i64::MIN), "{text}");
        }
        let beyond = [
            "9223372036854775808ns",
            "9223372036854775.808us",
            "9223372036854ms775us808ns",
            "-9223372036854775809ns",
            "9223372036854775810ns",
            "18446744073709551616ns",
            "9223372036854776us",
            "3000000h",
            "9223372036854775808ns9223372036854775808ns",
            "-9223372036854775808ns9223372036854775808ns",
        ];
        for text in beyond {
            assert_eq!(nanos(text), Err(DurationError::TooLong), "{text}");
        }
    }

    #[test]
    fn cuts_fractions_where_go_cuts_them() {
        let minute = 60 * S;
        let fractions = [
            ("1.9ns", 1),
            ("0.3333333333333333333h", 20 * minute),
            ("9007199254.740993ms", 9_007_199_254_740_993),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("0.100000000000000000000h", 6 * minute),
            ("0.9223372036854775807h", 55 * minute + 20_413_933_267),
            ("0.9223372036854775808h", 55 * minute + 20_413_933_267),
            ("0.830103483285477580700h", 49 * minute + 48_372_539_827),
        ];
        for (text, expected) in fractions {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
        let long = format!("0.{}1s", "0".repeat(400));
        assert_eq!(nanos(&long), Ok(0));
    }

    #[test]
    fn only_durations_from_zero_up_are_standard_durations() {
        assert_eq!(GoDuration(1).to_std(), Some(Duration::from_nanos(1)));
        assert_eq!(GoDuration(0).to_std(), Some(Duration::ZERO));
        assert_eq!(GoDuration(-1).to_std(), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_of_numbers_and_units_makes_it_panic(text in "[-+]?([0-9]{0,22}(\\.[0-9]{0,22})?(ns|us|µs|μs|ms|s|m|h|x)?){0,4}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_sign_changes_the_sign_alone(text in "([0-9]{1,5}(\\.[0-9]{0,5})?(ns|us|ms|s|m|h)){1,3}") {
            let plain = nanos(&text);
            prop_assert!(plain.is_ok());
            prop_assert_eq!(nanos(&format!("+{text}")), plain.clone());
            prop_assert_eq!(nanos(&format!("-{text}")), plain.map(|nanos| -nanos));
        }

        #[test]
        fn terms_add_up(first in "[0-9]{1,6}(ms|s|m|h)", second in "[0-9]{1,6}(ms|s|m|h)") {
            prop_assert_eq!(nanos(&format!("{first}{second}")), Ok(nanos(&first).unwrap() + nanos(&second).unwrap()));
        }
    }
}
