//! A qontract-server: the part of its schema that the program reads, executed over what the test sets.
//! Queries are validated and executed, so a misspelt field is an error, as on a real server.
//! Invariant: a non-empty answer always contains the nulls of real answers: an app without code components, and a
//! component without `gitlabSync`.

mod execute;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use self::execute::Schema;
use crate::http::{
    Body, BoxError, Entry, HttpServer, RequestLog, RequestRecord, full, has_basic, lock, plain, unauthorized,
};

/// The number of apps that the targets are spread over.
const APPS: usize = 3;

/// A project's branch, on either side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProjectRef {
    /// The group with its parents, for example `group/sub`.
    pub group: String,
    /// The project's own name.
    pub name: String,
    /// The branch.
    pub branch: String,
}

impl ProjectRef {
    /// Splits `group/sub/name` at its last slash; nothing is validated, so that tests can use invalid names.
    pub fn new(path: &str, branch: &str) -> Self {
        let (group, name) = path.rsplit_once('/').unwrap_or(("", path));
        Self { group: group.to_owned(), name: name.to_owned(), branch: branch.to_owned() }
    }

    /// `group/sub/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// One wanted synchronisation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SyncTarget {
    /// Where commits come from.
    pub source: ProjectRef,
    /// Where they go.
    pub destination: ProjectRef,
}

impl SyncTarget {
    /// `SyncTarget::new("src/group/name", "main", "dst/group/name", "main")`; the group is all but the last
    /// segment.
    pub fn new(source: &str, source_branch: &str, destination: &str, destination_branch: &str) -> Self {
        Self {
            source: ProjectRef::new(source, source_branch),
            destination: ProjectRef::new(destination, destination_branch),
        }
    }
}

/// A SaaS file's one deployment: what `saas_files_v2` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaasTarget {
    /// The SaaS file's name.
    pub saas_file: String,
    /// The name of its resource template.
    pub resource_template: String,
    /// The Git reference that is deployed.
    pub reference: String,
    /// The namespace it is deployed to.
    pub namespace: String,
}

/// An answer to give instead of executing the query.
#[derive(Debug, Clone)]
pub struct Canned {
    /// The status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body, as it is.
    pub body: String,
    /// Additional headers, for example `("Retry-After", "1")`.
    pub headers: Vec<(String, String)>,
    /// How often the answer is given before queries are executed again; `None` means always.
    pub times: Option<u32>,
}

impl Canned {
    /// A JSON answer with status 200.
    pub fn json(body: &str) -> Self {
        Self {
            status: 200,
            content_type: "application/json".to_owned(),
            body: body.to_owned(),
            headers: Vec::new(),
            times: None,
        }
    }

    /// An HTML page with this status, like a proxy's answer.
    pub fn html(status: u16) -> Self {
        Self {
            status,
            content_type: "text/html".to_owned(),
            body: format!("<html><body><h1>{status}</h1></body></html>"),
            headers: Vec::new(),
            times: None,
        }
    }

    /// `{"errors": [{"message": …}], "data": null}` with status 200.
    pub fn errors(message: &str) -> Self {
        Self::json(&serde_json::json!({ "errors": [{ "message": message }], "data": null }).to_string())
    }

    /// The same answer, only this often.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a [`GraphqlServer`] starts.
#[derive(Debug, Clone, Default)]
pub struct GraphqlOptions {
    /// User and password for HTTP Basic; `None` allows everyone.
    pub basic: Option<(String, String)>,
    /// The port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
}

#[derive(Debug, Default)]
struct State {
    basic: Option<(String, String)>,
    targets: Mutex<Vec<SyncTarget>>,
    bundles: Mutex<HashMap<String, Vec<SyncTarget>>>,
    saas: Mutex<Vec<SaasTarget>>,
    bundles_saas: Mutex<HashMap<String, Vec<SaasTarget>>>,
    canned: Mutex<Option<Canned>>,
    latency: Mutex<Duration>,
}

/// Answers queries at `/graphql`, and for an older bundle at `/graphqlsha/<sha>`.
pub struct GraphqlServer {
    server: HttpServer,
    log: RequestLog,
    state: Arc<State>,
}

impl GraphqlServer {
    /// Starts a server whose bundle is empty: it answers `"apps_v1": []`.
    pub fn start(options: GraphqlOptions) -> Result<Self> {
        let state = Arc::new(State { basic: options.basic, ..State::default() });
        let log = RequestLog::default();
        let schema = Arc::new(Schema::parse(include_str!("graphql/schema.graphql"))?);
        let served = Arc::clone(&state);
        let server = HttpServer::start("graphql-server", options.port, log.clone(), move |request, entry| {
            serve(Arc::clone(&served), Arc::clone(&schema), request, entry)
        })?;
        Ok(Self { server, log, state })
    }

    /// The URL of the current bundle: `http://127.0.0.1:<port>/graphql`.
    pub fn url(&self) -> String {
        format!("{}/graphql", self.server.url())
    }

    /// The URL of one bundle: `http://127.0.0.1:<port>/graphqlsha/<sha>`.
    pub fn sha_url(&self, sha: &str) -> String {
        format!("{}/graphqlsha/{sha}", self.server.url())
    }

    /// User and password, if the server needs them.
    pub fn basic(&self) -> Option<(&str, &str)> {
        self.state.basic.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// Sets the targets. Apps and components without a target are mixed in; no targets make an empty bundle.
    pub fn set_targets(&self, targets: Vec<SyncTarget>) {
        *lock(&self.state.targets) = targets;
    }

    /// The current targets.
    pub fn targets(&self) -> Vec<SyncTarget> {
        lock(&self.state.targets).clone()
    }

    /// Sets what the bundle at `/graphqlsha/<sha>` holds. A bundle never set is answered with 404.
    pub fn set_bundle(&self, sha: &str, targets: Vec<SyncTarget>) {
        lock(&self.state.bundles).insert(sha.to_owned(), targets);
    }

    /// Sets what `saas_files_v2` answers, in every bundle without an answer of its own.
    pub fn set_saas_targets(&self, targets: Vec<SaasTarget>) {
        *lock(&self.state.saas) = targets;
    }

    /// Sets what `saas_files_v2` answers in the bundle at `/graphqlsha/<sha>`.
    pub fn set_bundle_saas_targets(&self, sha: &str, targets: Vec<SaasTarget>) {
        lock(&self.state.bundles_saas).insert(sha.to_owned(), targets);
    }

    /// Answers with this from now on, or as often as it specifies, instead of executing queries.
    pub fn respond_with(&self, canned: Canned) {
        *lock(&self.state.canned) = Some(canned);
    }

    /// Executes queries again.
    pub fn respond_normally(&self) {
        *lock(&self.state.canned) = None;
    }

    /// Makes every request wait this long before it is served.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.state.latency) = latency;
    }

    /// All requests since the start or the last [`GraphqlServer::clear_requests`], with their bodies.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.log.records()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.log.clear();
    }
}

impl State {
    /// The canned answer that is due, if one is.
    fn next_canned(&self) -> Option<Canned> {
        let mut slot = lock(&self.canned);
        let canned = slot.as_mut()?;
        match &mut canned.times {
            None => Some(canned.clone()),
            Some(0) => {
                *slot = None;
                None
            }
            Some(left) => {
                *left -= 1;
                Some(canned.clone())
            }
        }
    }

    /// The content of the bundle at a path; `None` if there is none.
    fn bundle(&self, path: &str) -> Option<Value> {
        let saas = lock(&self.saas).clone();
        match path.strip_prefix("/graphqlsha/") {
            Some(sha) => {
                let targets = lock(&self.bundles).get(sha)?.clone();
                Some(bundle(&targets, &lock(&self.bundles_saas).get(sha).cloned().unwrap_or(saas)))
            }
            None if path == "/graphql" => Some(bundle(&lock(&self.targets), &saas)),
            None => None,
        }
    }
}

async fn serve(
    state: Arc<State>,
    schema: Arc<Schema>,
    request: Request<Body>,
    entry: Arc<Entry>,
) -> Result<Response<Body>, BoxError> {
    let latency = *lock(&state.latency);
    tokio::time::sleep(latency).await;

    let (head, body) = request.into_parts();
    // Read the body whatever the answer will be, so that the log has it.
    let body = body.collect().await?.to_bytes();
    if let Some((user, password)) = &state.basic
        && !has_basic(&head.headers, user, password)
    {
        return Ok(unauthorized("Basic realm=\"qontract\""));
    }
    if let Some(canned) = state.next_canned() {
        return canned_response(canned);
    }
    let Some(bundle) = state.bundle(entry.path()) else {
        return Ok(plain(StatusCode::NOT_FOUND, "no such bundle"));
    };
    if head.method != Method::POST {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "POST a query"));
    }
    let request: Value = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    // Like Apollo: a query that does not match the schema is the client's error.
    let (status, answer) = match schema.execute(request["query"].as_str().unwrap_or_default(), &bundle) {
        Ok(data) => (200, json!({ "data": data, "extensions": { "schemas": ["/app-sre/app-1.yml"] } })),
        Err(error) => (400, json!({ "errors": [{ "message": error.to_string() }] })),
    };
    canned_response(Canned { status, ..Canned::json(&answer.to_string()) })
}

fn canned_response(canned: Canned) -> Result<Response<Body>, BoxError> {
    let mut response = Response::new(full(canned.body));
    *response.status_mut() = StatusCode::from_u16(canned.status)?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(&canned.content_type)?);
    for (name, value) in &canned.headers {
        response.headers_mut().append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    Ok(response)
}

/// The data that a query runs on.
fn bundle(targets: &[SyncTarget], saas: &[SaasTarget]) -> Value {
    json!({ "apps_v1": apps(targets), "saas_files_v2": saas_files(saas) })
}

/// Spreads the targets over a few apps, among apps and components without any.
fn apps(targets: &[SyncTarget]) -> Vec<Value> {
    if targets.is_empty() {
        return Vec::new();
    }
    let mut components = vec![vec![component("not-synced", None)]; APPS];
    for (index, target) in targets.iter().enumerate() {
        components[index % APPS].push(component(&target.source.name, Some(target)));
    }
    let app = |name: &str, components: Option<Vec<Value>>| {
        let path = format!("/services/{name}/app.yml");
        json!({ "path": path, "name": name, "codeComponents": components })
    };
    let numbered = components.into_iter().zip(1..);
    let mut apps: Vec<_> =
        numbered.map(|(components, number)| app(&format!("app-{number}"), Some(components))).collect();
    apps.insert(1, app("no-code", None));
    apps
}

fn component(name: &str, target: Option<&SyncTarget>) -> Value {
    let sync = target.map(|target| {
        json!({ "sourceProject": project(&target.source), "destinationProject": project(&target.destination) })
    });
    json!({
        "name": name,
        "resource": "upstream",
        "url": format!("https://gitlab.example.com/{name}"),
        "gitlabSync": sync,
    })
}

fn project(project: &ProjectRef) -> Value {
    json!({ "name": project.name, "group": project.group, "branch": project.branch })
}

/// One file for each name, with one template for each name.
fn saas_files(targets: &[SaasTarget]) -> Vec<Value> {
    let mut files: Named<'_, Named<'_, Vec<Value>>> = Vec::new();
    for target in targets {
        let templates = entry(&mut files, &target.saas_file);
        let deployed = json!({ "ref": target.reference, "namespace": { "name": target.namespace } });
        entry(templates, &target.resource_template).push(deployed);
    }
    let template = |(name, targets)| json!({ "name": name, "targets": targets });
    let file = |(name, templates): (&str, Vec<_>)| {
        let templates: Vec<_> = templates.into_iter().map(template).collect();
        json!({ "path": format!("/services/{name}/{name}.yml"), "name": name, "resourceTemplates": templates })
    };
    files.into_iter().map(file).collect()
}

/// Things with a name each, in the order in which the names came.
type Named<'n, T> = Vec<(&'n str, T)>;

/// What a list has under a name.
fn entry<'a, 'n, T: Default>(list: &'a mut Named<'n, T>, name: &'n str) -> &'a mut T {
    let index = list.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
        list.push((name, T::default()));
        list.len() - 1
    });
    &mut list[index].1
}
