//! Checks of single values: text in; the value, or what is wrong and what to write instead, out.
//!
//! Invariant: if a value may hold a credential by mistake (addresses, user names, recipients), no message repeats it.

use std::fs;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use age::x25519::Recipient;
use url::Url;

use crate::config::duration;
use crate::graphql::QuerySource;
use crate::graphql::file::TargetsFile;
use crate::memory::LEAST_BUDGET_BYTES;
use crate::model::program::Program;
pub(super) use crate::net::proxy::is_loopback;
use crate::secret::without_mark;
use crate::text::human_bytes;

/// Exactly the spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false: write one of these")),
    }
}

/// To which servers credentials may go over `http://`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InsecureHttp {
    pub(super) gitlab: bool,
    pub(super) graphql: bool,
    pub(super) s3: bool,
}

impl InsecureHttp {
    pub(super) const EVERY_SERVER: Self = Self { gitlab: true, graphql: true, s3: true };
    /// Requests to S3 are signed and the secret key is not sent, so S3 is allowed unless servers are named.
    const UNNAMED: Self = Self { gitlab: false, graphql: false, s3: true };
    const NO_SERVER: Self = Self { gitlab: false, graphql: false, s3: false };
}

/// True, false, or the servers of a program.
pub(super) fn insecure_http(program: Program) -> impl Fn(&str) -> Result<InsecureHttp, String> {
    move |text| {
        if let Ok(every) = boolean(text) {
            return Ok(if every { InsecureHttp::EVERY_SERVER } else { InsecureHttp::UNNAMED });
        }
        let mut allowed = InsecureHttp::NO_SERVER;
        for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
            match (word, program) {
                ("gitlab", _) => allowed.gitlab = true,
                ("s3", _) => allowed.s3 = true,
                ("graphql", Program::Producer) => allowed.graphql = true,
                (_, Program::Producer) => {
                    return Err(format!("{word:?} is not known: write true, false, or some of gitlab,graphql,s3"));
                }
                (_, Program::Consumer) => {
                    return Err(format!("{word:?} is not known: write true, false, or some of gitlab,s3"));
                }
            }
        }
        if allowed == InsecureHttp::NO_SERVER {
            return Err(format!("{text:?} names no server: write true, false, or the names of servers"));
        }
        Ok(allowed)
    }
}

pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(format!("{text:?} is not known: write {}", names.join(" or ")))
        }
    }
}

pub(super) fn above_zero(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text)
        .map_err(|why| format!("{text:?} is not a duration: {why}, write for example 90s or 5m"))?;
    let positive = duration.to_std().filter(|duration| !duration.is_zero());
    positive.ok_or_else(|| format!("{text:?} is not above zero: write for example 90s or 5m"))
}

pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<NonZeroUsize, String> {
    move |text| {
        let number = text.parse().ok().filter(|number: &NonZeroUsize| range.contains(&number.get()));
        number.ok_or_else(|| format!("{text:?} is not a number from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix.strip_suffix('B').unwrap_or(suffix) {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1_u64 << 40),
        _ => None,
    };
    let size = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    size.ok_or_else(|| format!("{text:?} is not a size: write bytes, or Ki, Mi, Gi or Ti of them, for example 5Gi"))
}

pub(super) fn some_bytes(text: &str) -> Result<u64, String> {
    let size = byte_size(text)?;
    if size == 0 { Err(format!("{text:?} is not above zero: write for example 100Gi")) } else { Ok(size) }
}

pub(super) fn memory_budget(text: &str) -> Result<u64, String> {
    let size = byte_size(text)?;
    let least = human_bytes(LEAST_BUDGET_BYTES);
    if size < LEAST_BUDGET_BYTES { Err(format!("{text:?} is less than {least}: give at least that")) } else { Ok(size) }
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| {
        if text.starts_with("tcp://") {
            format!(
                "{text:?} comes from Kubernetes, which sets this variable for a Service named metrics-server: \
                 put enableServiceLinks: false into the pod's spec, or use the flag"
            )
        } else {
            format!("{text:?} is not a port: write a number up to 65535")
        }
    })
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address: write 0.0.0.0 for all of IPv4, :: for all, or 127.0.0.1"))
}

pub(super) fn one_line(text: &str) -> Result<String, String> {
    if text.contains(char::is_control) {
        return Err("holds a line end or another control character: remove it".to_owned());
    }
    Ok(text.to_owned())
}

/// A part of an AWS login that is sent in a header. White space at its ends is cut off when the SDK has read it.
pub(super) fn credential(text: &str) -> Result<(), String> {
    not_blank(text)?;
    if text.trim().contains(|c: char| !c.is_ascii_graphic()) {
        return Err("holds a space, a line end or another character that no header can hold: set it again".to_owned());
    }
    Ok(())
}

/// What the SDK sends in a header just as it is.
pub(super) fn header_text(text: &str) -> Result<(), String> {
    if text.contains(|c: char| !(c.is_ascii_graphic() || c == ' ')) {
        return Err("holds a line end or another character that no header can hold: set it again".to_owned());
    }
    Ok(())
}

pub(super) fn not_blank(text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err("is blank".to_owned()) } else { Ok(()) }
}

/// A user name that HTTP Basic can carry. It is not repeated: people paste tokens into the wrong variable.
pub(super) fn username(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err("holds a colon, which no user name for HTTP Basic can: give the name alone".to_owned());
    }
    one_line(text)
}

/// Checks the characters only, those of older bucket names included. S3 says whether the bucket exists. The message repeats no
/// address: it may hold credentials.
pub(super) fn bucket(text: &str) -> Result<String, String> {
    let is_arn = text.starts_with("arn:aws") && text.split(':').nth(2).is_some_and(|service| service.starts_with("s3"));
    let is_name = (3..=255).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if is_name || is_arn && !text.contains(char::is_whitespace) {
        return Ok(text.to_owned());
    }
    let shown = if text.contains(['@', ':']) { "it".to_owned() } else { format!("{text:?}") };
    Err(format!("{shown} is not a bucket: write its name, without s3:// and path, or an access point's ARN"))
}

/// An address to send requests to. Messages never repeat it: it may hold credentials.
pub(super) fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| match why {
        url::ParseError::RelativeUrlWithoutBase => "has no https:// in front: write the whole address".to_owned(),
        why => format!("is not an address ({why}): write for example https://host.example.com"),
    })?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("does not begin with https://, or http://, and a host: write the whole address".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it: remove it, they have settings of their own".to_owned());
    }
    Ok(url)
}

/// An address that paths are appended to.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = http_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a ? or # in it: write the address up to there".to_owned());
    }
    Ok(url)
}

/// An address that projects' paths are appended to.
pub(super) fn gitlab_url(text: &str) -> Result<Url, String> {
    let url = base_url(text)?;
    let path = url.path().trim_end_matches('/');
    if ["/api", "/api/v3", "/api/v4", "/api/graphql"].iter().any(|api| path.ends_with(api)) {
        return Err("is the address of GitLab's API: write the address up to /api".to_owned());
    }
    if path.ends_with(".git") {
        return Err("is the address of a project: write what all clone addresses begin with".to_owned());
    }
    Ok(url)
}

/// The recipient of the examples in age's documentation. Nobody on the far side has its identity.
const AGE_DOCUMENTATION: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// What `age-keygen` prints before a recipient.
const KEYGEN_PREFIX: &str = "Public key:";
/// Length of a recipient that `age-keygen` makes, in bytes.
const RECIPIENT_BYTES: usize = 62;

/// Messages name a recipient by its position: the text may be a secret that was pasted by mistake. Lines that begin with
/// `#` are comments, as in a recipients file of age.
pub(super) fn recipients(text: &str) -> Result<Vec<Recipient>, String> {
    let (mut recipients, mut problems, mut position) = (Vec::new(), Vec::new(), 0);
    for line in without_mark(text).lines().filter(|line| !line.trim_start().starts_with('#')) {
        let line = match line.trim_start().strip_prefix(KEYGEN_PREFIX) {
            Some(rest) => {
                let next = position + 1;
                problems.push(format!("number {next} has `{KEYGEN_PREFIX}` in front: give only what follows it"));
                rest
            }
            None => line,
        };
        for word in line.split(|next: char| next == ',' || next.is_whitespace()).filter(|word| !word.is_empty()) {
            position += 1;
            match word.parse::<Recipient>() {
                Ok(recipient) if recipient.to_string() == AGE_DOCUMENTATION => {
                    let why = "is the example in age's documentation, which the far side cannot decrypt: give the one that \
                               `age-keygen` printed there";
                    problems.push(format!("number {position} {why}"));
                }
                Ok(recipient) if recipients.contains(&recipient) => {}
                Ok(recipient) => recipients.push(recipient),
                Err(_) => problems.push(format!("number {position} {}", what_instead(word))),
            }
            if word.starts_with("ssh-") {
                // The rest of the line belongs to it.
                break;
            }
        }
    }
    match (problems.is_empty(), recipients.is_empty()) {
        (true, false) => Ok(recipients),
        (true, true) if text.contains('#') => {
            Err("holds no recipient: a line that begins with # is a comment; give one that begins with age1".to_owned())
        }
        (true, true) => Err("holds no recipient: give one that begins with age1".to_owned()),
        (false, _) => Err(problems.join(", ")),
    }
}

/// They belong to a shell or to YAML.
const QUOTES: [char; 7] = ['"', '\'', '`', '“', '”', '‘', '’'];

/// What a word is that is not a recipient, and what to give.
fn what_instead(word: &str) -> &'static str {
    let upper = word.to_ascii_uppercase();
    if upper.contains("AGE-SECRET-KEY-") {
        "is an identity (secret key): give the recipient age1… that `age-keygen -y` makes of it"
    } else if upper.starts_with("AGE1PQ1") {
        "is a post-quantum recipient (age1pq1…), which this program cannot use: give one that `age-keygen` makes without -pq"
    } else if word.starts_with(QUOTES) || word.ends_with(QUOTES) {
        "has quotes around it: leave them out"
    } else if upper.starts_with("AGE1") && (word.contains('…') || word.contains("...")) {
        "is a placeholder: put the recipient in its place that `age-keygen` printed"
    } else if word.len() != RECIPIENT_BYTES && upper.strip_prefix("AGE1").is_some_and(|rest| rest.contains('1')) {
        // Bech32 has no digit 1 in its data: it ends the plugin's name.
        "is the recipient of an age plugin, and plugins are not used: give one that `age-keygen` makes"
    } else if word.starts_with("ssh-") {
        "is an SSH key, which is not used: give a recipient that `age-keygen` makes"
    } else if upper.starts_with("AGE1") {
        "begins with age1, but has a typing error or is cut short (its checksum does not fit): copy it again from what \
         `age-keygen` printed"
    } else {
        "is not an age recipient: give one that begins with age1"
    }
}

/// A bundle's checksum. It becomes one segment of a path.
pub(super) fn bundle_sha(text: &str) -> Result<String, String> {
    if text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a bundle's checksum: give its hexadecimal digits alone"))
}

pub(super) fn query_file(path: &Path) -> Result<QuerySource, String> {
    let text = fs::read_to_string(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    if text.trim().is_empty() {
        return Err(format!("{} is empty: put the query into it", path.display()));
    }
    Ok(QuerySource::File(path.to_owned()))
}

/// A file with the target list. What is in it is read by each pass.
pub(super) fn targets_file(path: &str) -> Result<TargetsFile, String> {
    let file = TargetsFile(path.into());
    file.try_open().map_err(|why| format!("cannot read {path}: {why}"))?;
    Ok(file)
}

/// The file may be absent; if it is there, it must be usable.
pub(super) fn query_file_or_built_in(path: &Path, built_in: &'static str) -> Result<QuerySource, String> {
    if path.try_exists().is_ok_and(|exists| !exists) { Ok(QuerySource::BuiltIn(built_in)) } else { query_file(path) }
}
