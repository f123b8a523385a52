//! A status page, as text.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// How long the program may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a status page says.
pub struct Page {
    pub headline: String,
    /// Troubles: the heading, what to do, where, and what happened.
    pub cards: Vec<[String; 4]>,
}

impl Page {
    /// Asks for the page at `http://ADDRESS/`.
    pub fn at(url: &str) -> Result<Self> {
        let html = get(url, "/").with_context(|| format!("asking for {url}"))?;
        let headline = element(&html, "h1").map(plain).context("a page without a headline")?;
        Ok(Self { headline, cards: html.split("<section class=\"panel card\"").skip(1).filter_map(card).collect() })
    }
}

fn card(html: &str) -> Option<[String; 4]> {
    let (title, count) = element(html, "h2")?.split_once("<span")?;
    let place = element(html, "li")?.split("<a ").next()?;
    let advice = plain(of_class(html, "advice")?).trim_end_matches(" Runbook").to_owned();
    let what = plain(of_class(html, "error")?);
    Some([format!("{} ({})", plain(title), plain(&format!("<span{count}"))), advice, plain(place), what])
}

/// What is in the first paragraph of this class.
fn of_class<'a>(html: &'a str, class: &str) -> Option<&'a str> {
    let (_, content) = html.split_once(&format!("<p class=\"{class}\">"))?;
    content.split_once("</p>").map(|(content, _)| content)
}

/// How many passes are over, says the program at `http://ADDRESS/`. Its log does not name those that found nothing new.
pub fn passes_over(url: &str) -> Result<usize> {
    let metrics = get(url, "/metrics").with_context(|| format!("asking {url} for its metrics"))?;
    let counts = metrics.lines().filter(|line| line.contains("_passes_total{"));
    let counts = counts.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<usize>());
    Ok(counts.sum::<Result<_, _>>()?)
}

fn get(url: &str, path: &str) -> Result<String> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{}", answer.lines().next().unwrap_or("no answer"));
    Ok(answer)
}

/// Sends GitLab's event of a push to the program at `http://ADDRESS/`, and returns its answer's status line.
pub fn send_push_event(url: &str, secret: &str, project: &str, branch: &str) -> Result<String> {
    let event = serde_json::json!({
        "object_kind": "push",
        "ref": format!("refs/heads/{branch}"),
        "project": { "path_with_namespace": project },
    });
    let (event, address) = (event.to_string(), url.trim_start_matches("http://").trim_end_matches('/'));
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    let length = event.len();
    let headers = format!("X-Gitlab-Token: {secret}\r\nX-Gitlab-Event: Push Hook\r\nContent-Length: {length}\r\n");
    write!(connection, "POST /hooks/gitlab HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n{event}")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or("no answer").to_owned())
}

/// What is in the first such element.
fn element<'a>(html: &'a str, name: &str) -> Option<&'a str> {
    let opening = html.find(&format!("<{name} ")).into_iter().chain(html.find(&format!("<{name}>"))).min()?;
    let (_, content) = html[opening..].split_once('>')?;
    content.split_once(&format!("</{name}>")).map(|(content, _)| content)
}

/// Without tags, and with the characters that are escaped in HTML.
fn plain(html: &str) -> String {
    let mut text = String::new();
    for (index, piece) in html.split('<').enumerate() {
        let content = if index == 0 { piece } else { piece.split_once('>').map_or("", |(_, content)| content) };
        text.push_str(content);
    }
    for (escaped, character) in [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")] {
        text = text.replace(escaped, character);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
