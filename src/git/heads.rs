//! Heads of branches, of the source or of the far side: one small request for each project, however many of its branches
//! are wanted.
//!
//! Invariant: every requested branch gets an answer; a source branch that was not found is as unknown as one that could not
//! be read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use reqwest::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::push::PushServer;
use super::wire::{GitServer, Tip, WireError};
use crate::model::key::{CommitId, Destination};
use crate::model::target::{FarHead, FarUnknown, Head, Source, Target, Unknown};
use crate::net::http::{self, RequestError, Retryable};
use crate::progress::Pulse;
use crate::text::error_chain;

/// How long one project's probe may take, including retries.
const PROBE_BUDGET: Duration = Duration::from_secs(90);
/// After this many projects without any answer, and with no answer for another project meanwhile, the server counts as
/// unreachable and the rest is not tried: a GitLab that is down must not hold up a pass for hours.
const UNREACHABLE_AFTER: usize = 20;
/// After this many broken answers (429, 5xx) in a row, a project is asked only once.
const BROKEN_AFTER: usize = 20;
/// After this many refusals of the login in a row, or after one for each wanted project, nothing more is tried. GitLab bans
/// an address for an hour after ten to thirty.
const LOGIN_REFUSED_AFTER: usize = 5;

/// The heads of a project's wanted branches.
type Found<T> = Result<BTreeMap<String, T>, NotFound>;

/// Why nothing is known of a project.
#[derive(Debug)]
enum NotFound {
    /// Not tried, because the server did not answer for other projects.
    NotTried,
    Failed(WireError),
}

/// How projects are asked for.
#[derive(Clone, Copy)]
pub struct Probes<'a> {
    /// One permit for each request, for all passes together.
    pub slots: &'a Semaphore,
    /// How many projects are asked for at the same time.
    pub concurrency: NonZeroUsize,
    /// How often a project is asked for in all before its failure counts.
    pub attempts: usize,
    pub experience: &'a Experience,
    /// Beats with every answer.
    pub pulse: &'a Pulse,
}

/// The server refuses the login. That is one fact, however many projects are wanted.
#[derive(Debug, thiserror::Error)]
#[error(
    "GitLab refuses the login{}: check GITLAB_USERNAME, and whether the token has expired and has the scope {scope}",
    in_a_row(*.refusals)
)]
pub struct LoginRefused {
    refusals: usize,
    /// What the token needs.
    scope: &'static str,
    #[source]
    why: WireError,
}

fn in_a_row(refusals: usize) -> String {
    if refusals > 1 { format!(", {refusals} times in a row") } else { String::new() }
}

impl LoginRefused {
    /// What to do about it.
    pub const ADVICE: &'static str = "Replace the token (GITLAB_TOKEN, or the file in GITLAB_TOKEN_FILE), and check \
        GITLAB_USERNAME. If GitLab has banned this address after many refusals, that ends by itself within an hour.";
}

/// What probes remember of earlier ones.
#[derive(Debug, Default)]
pub struct Experience(Mutex<Refusals>);

/// Refusals of the login since it was last accepted.
#[derive(Debug, Default)]
struct Refusals {
    count: usize,
    last: Option<Instant>,
}

/// What the probes of one pass have met.
struct Probing<'a> {
    attempts: usize,
    experience: &'a Experience,
    /// After how many refusals of the login nothing more is tried.
    refused_after: usize,
    scope: &'static str,
    /// When a project was last answered, whatever the answer.
    answered: Mutex<Option<Instant>>,
    silent: AtomicUsize,
    broken: AtomicUsize,
    refused: Mutex<Option<LoginRefused>>,
}

impl Experience {
    /// Whether the login was refused so often that only full passes try it.
    pub fn is_refused(&self) -> bool {
        self.0.lock().count >= LOGIN_REFUSED_AFTER
    }

    /// A request that began at `begun` showed that the login is accepted. If the login was refused meanwhile, that is newer.
    pub fn login_was_accepted(&self, begun: Instant) {
        let mut refusals = self.0.lock();
        if refusals.last.is_none_or(|last| last < begun) {
            *refusals = Refusals::default();
        }
    }

    /// Returns how often the login was refused since it was last accepted.
    pub fn login_was_refused(&self) -> usize {
        let mut refusals = self.0.lock();
        refusals.last = Some(Instant::now());
        refusals.count += 1;
        refusals.count
    }
}

impl<'a> Probing<'a> {
    fn new(projects: usize, attempts: usize, experience: &'a Experience, scope: &'static str) -> Self {
        let (silent, broken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let refused_after = LOGIN_REFUSED_AFTER.min(projects);
        let (answered, refused) = (Mutex::default(), Mutex::default());
        Self { attempts, experience, refused_after, scope, answered, silent, broken, refused }
    }

    fn is_over(&self) -> bool {
        self.silent.load(Ordering::Relaxed) >= UNREACHABLE_AFTER || self.refused.lock().is_some()
    }

    async fn probe<T>(&self, ask: impl AsyncFn() -> Result<BTreeMap<String, T>, WireError>) -> Found<T> {
        if self.is_over() {
            return Err(NotFound::NotTried);
        }
        let begun = Instant::now();
        let found = if self.broken.load(Ordering::Relaxed) >= BROKEN_AFTER {
            let once = timeout(PROBE_BUDGET, ask()).await;
            once.unwrap_or_else(|_| Err(RequestError::Late(PROBE_BUDGET).into()))
        } else {
            http::retrying_at_most(self.attempts, PROBE_BUDGET, async || ask().await).await
        };
        self.learn(begun, found)
    }

    fn learn<T>(&self, begun: Instant, found: Result<BTreeMap<String, T>, WireError>) -> Found<T> {
        let request = match &found {
            Err(WireError::Request(error)) => Some(error),
            Ok(_) | Err(_) => None,
        };
        if request.is_some_and(RequestError::is_unanswered) {
            // An answer to another project meanwhile shows that the server can be reached.
            if self.answered.lock().is_none_or(|answered| answered < begun) {
                self.silent.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            *self.answered.lock() = Some(Instant::now());
            self.silent.store(0, Ordering::Relaxed);
            match request.is_some_and(RequestError::is_transient) {
                true => self.broken.fetch_add(1, Ordering::Relaxed),
                false => self.broken.swap(0, Ordering::Relaxed),
            };
        }
        let why = match found {
            Ok(heads) => {
                self.experience.login_was_accepted(begun);
                return Ok(heads);
            }
            Err(why) => why,
        };
        if is_refusal(&why) {
            let refusals = self.experience.login_was_refused();
            if refusals >= self.refused_after {
                self.refused.lock().get_or_insert(LoginRefused { refusals, scope: self.scope, why });
                return Err(NotFound::NotTried);
            }
        } else if matches!(&why, WireError::Request(RequestError::Status { .. })) && !is_broken(&why) {
            // GitLab reads the login before it says anything about a project.
            self.experience.login_was_accepted(begun);
        }
        Err(NotFound::Failed(why))
    }
}

fn is_refusal(why: &WireError) -> bool {
    matches!(why, WireError::Request(error) if error.refuses_login())
}

fn is_broken(why: &WireError) -> bool {
    matches!(why, WireError::Request(error) if error.is_transient())
}

/// The targets with their source branches' heads, in the given order.
///
/// # Errors
/// [`LoginRefused`]: nothing is known of any target.
pub async fn heads(
    server: &GitServer,
    targets: Vec<Target>,
    probes: Probes<'_>,
) -> Result<Vec<(Target, Head)>, LoginRefused> {
    let wanted = Wanted::new(targets.iter().map(|Target { source, .. }| (&*source.project, &*source.branch)).collect());
    let ask = async |project: &str, branches: &BTreeSet<&str>| server.ls_refs(project, branches).await;
    let unknown = |project: &str, why| match why {
        NotFound::NotTried => Unknown::NotTried,
        NotFound::Failed(why) => Unknown::Unreadable { project: project.to_owned(), why: error_chain(&why) },
    };
    let found = ask_for(&wanted, "read_repository", ask, unknown, probes).await?;
    let head = |source: &Source| match found.get(&*source.project) {
        Some(Ok(heads)) => match of_branch(heads, &source.branch) {
            Some(Tip::Commit(commit)) => Head::At(*commit),
            Some(Tip::Tag) => Head::Unknown(Unknown::Unreadable {
                project: source.project.clone(),
                why: format!(
                    "its branch {} points to a tag, not to a commit: set it to the tag's commit",
                    source.branch
                ),
            }),
            None => Head::Unknown(Unknown::NoBranch(source.clone())),
        },
        Some(Err(why)) => Head::Unknown(why.clone()),
        None => Head::Unknown(Unknown::NotTried),
    };
    let heads: Vec<_> = targets.iter().map(|target| head(&target.source)).collect();
    Ok(targets.into_iter().zip(heads).collect())
}

/// How the far side is asked where its branches are.
#[derive(Clone, Copy)]
pub enum FarSide<'a> {
    /// As a push asks. It tells whether the user may push, and GitLab makes a missing project at this request.
    ForPush(&'a PushServer),
    /// As a fetch asks, which changes nothing.
    ReadOnly(&'a GitServer),
}

impl FarSide<'_> {
    async fn heads(self, project: &str, branches: &BTreeSet<&str>) -> Result<BTreeMap<String, CommitId>, WireError> {
        let tips = match self {
            Self::ForPush(server) => return server.heads_for_push(project, branches).await,
            Self::ReadOnly(server) => server.ls_refs(project, branches).await,
        };
        let commit = |(branch, tip)| match tip {
            Tip::Commit(commit) => Some((branch, commit)),
            // A push replaces it.
            Tip::Tag => None,
        };
        Ok(tips?.into_iter().filter_map(commit).collect())
    }

    /// What it means that nothing is known of a project.
    fn unknown(self, project: &str, why: NotFound) -> FarHead {
        let why = match why {
            NotFound::NotTried => FarUnknown::NotTried,
            NotFound::Failed(why) => why_no_push(project, &why),
        };
        match (self, why) {
            (Self::ReadOnly(_), FarUnknown::NoProject { .. }) => FarHead::NoProject,
            (Self::ReadOnly(_) | Self::ForPush(_), why) => FarHead::Unknown(why),
        }
    }
}

/// Where the far side's branches are.
///
/// # Errors
/// [`LoginRefused`]: nothing is known of any destination.
pub async fn far_heads(
    far: FarSide<'_>,
    destinations: &BTreeSet<&Destination>,
    probes: Probes<'_>,
) -> Result<BTreeMap<Destination, FarHead>, LoginRefused> {
    let paths: BTreeMap<&Destination, String> = destinations.iter().map(|it| (*it, it.path())).collect();
    let wanted = Wanted::new(paths.iter().map(|(destination, path)| (&**path, &*destination.branch)).collect());
    let ask = async |project: &str, branches: &BTreeSet<&str>| far.heads(project, branches).await;
    let found = ask_for(&wanted, "write_repository", ask, |project, why| far.unknown(project, why), probes).await?;
    let head = |destination: &Destination, path: &String| match found.get(&**path) {
        Some(Ok(heads)) => of_branch(heads, &destination.branch).map_or(FarHead::Absent, |commit| FarHead::At(*commit)),
        Some(Err(head)) => head.clone(),
        None => FarHead::Unknown(FarUnknown::NotTried),
    };
    Ok(paths.iter().map(|(destination, path)| ((*destination).clone(), head(destination, path))).collect())
}

/// What an error means that comes before a push to a project.
pub fn why_no_push(project: &str, error: &WireError) -> FarUnknown {
    let why = error_chain(error);
    let group = || project.rsplit_once('/').map_or(project, |(group, _)| group).to_owned();
    match error {
        WireError::Request(RequestError::Status { .. }) if is_refusal(error) => FarUnknown::LoginRefused(why),
        WireError::Request(RequestError::Status { status: StatusCode::NOT_FOUND, .. }) => {
            FarUnknown::NoProject { group: group(), why }
        }
        WireError::Request(RequestError::Status { status, .. }) if status.is_client_error() && !is_broken(error) => {
            FarUnknown::Refused(why)
        }
        _ => FarUnknown::Unreadable(why),
    }
}

/// Projects and their branches, sorted. There can be very many, so neither a project nor a branch is a collection of its own.
struct Wanted<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Wanted<'a> {
    fn new(mut wanted: Vec<(&'a str, &'a str)>) -> Self {
        wanted.sort_unstable();
        wanted.dedup();
        Self(wanted)
    }

    /// Each project with its branches.
    fn projects(&self) -> impl Iterator<Item = (&'a str, &[(&'a str, &'a str)])> {
        self.0.chunk_by(|a, b| a.0 == b.0).filter_map(|branches| Some((branches.first()?.0, branches)))
    }
}

/// The wanted branches of a project that were found.
type Heads<'a, T> = Box<[(&'a str, T)]>;

fn of_branch<'a, T>(heads: &'a [(&str, T)], branch: &str) -> Option<&'a T> {
    heads.iter().find(|(name, _)| *name == branch).map(|(_, head)| head)
}

/// Asks for the wanted branches of each project. At most `concurrency` projects are asked for at a time, and each takes one
/// of the slots. The token needs `scope`.
async fn ask_for<'a, T, U>(
    wanted: &Wanted<'a>,
    scope: &'static str,
    ask: impl AsyncFn(&str, &BTreeSet<&str>) -> Result<BTreeMap<String, T>, WireError>,
    unknown: impl Fn(&str, NotFound) -> U,
    Probes { slots, concurrency, attempts, experience, pulse }: Probes<'_>,
) -> Result<HashMap<&'a str, Result<Heads<'a, T>, U>>, LoginRefused> {
    let projects: Vec<_> = wanted.projects().collect();
    let probing = Probing::new(projects.len(), attempts, experience, scope);
    let mut all: HashMap<&str, Result<Heads<'_, T>, U>> = HashMap::new();
    let mut keep = |project: &'a str, branches: &[(&'a str, &'a str)], found: Found<T>| {
        let heads = found.map(|mut heads| {
            branches.iter().filter_map(|(_, branch)| Some((*branch, heads.remove(*branch)?))).collect::<Heads<'a, T>>()
        });
        all.insert(project, heads.map_err(|why| unknown(project, why)));
    };
    let names = |branches: &[(&'a str, &'a str)]| branches.iter().map(|(_, branch)| *branch).collect::<BTreeSet<_>>();
    let mut wanted: VecDeque<_> = spread(projects).into();
    // One at a time until the login is accepted: many at a time would be as many failed logins.
    while let Some((project, branches)) = wanted.pop_front() {
        // The semaphore is never closed.
        let _slot = slots.acquire().await;
        let begun = Instant::now();
        let first = timeout(PROBE_BUDGET, ask(project, &names(branches))).await;
        pulse.beat();
        match first {
            Ok(answer) if !answer.as_ref().is_err_and(|why| why.retry().0) => {
                let refused = answer.as_ref().is_err_and(is_refusal);
                keep(project, branches, probing.learn(begun, answer));
                if !refused || probing.is_over() {
                    break;
                }
            }
            // It is tried again with the others.
            Ok(_) | Err(_) => {
                wanted.push_front((project, branches));
                break;
            }
        }
    }
    let probes = wanted.into_iter().map(|(project, branches)| {
        let (probing, ask, names) = (&probing, &ask, names(branches));
        async move {
            let _slot = slots.acquire().await;
            let found = probing.probe(async || ask(project, &names).await).await;
            pulse.beat();
            (project, branches, found)
        }
    });
    let mut probes = pin!(stream::iter(probes).buffer_unordered(concurrency.get()));
    while let Some((project, branches, found)) = probes.next().await {
        keep(project, branches, found);
    }
    match probing.refused.lock().take() {
        Some(refused) => Err(refused),
        None => Ok(all),
    }
}

/// The same elements in an order in which neighbours are far apart: the projects of one group often fail together, and
/// say nothing about the others.
fn spread<T>(elements: Vec<T>) -> Vec<T> {
    let count = elements.len();
    let mut elements: Vec<_> = elements.into_iter().map(Some).collect();
    // Near the golden ratio, so that any few places in a row are spread over all of them.
    let (mut step, mut order) = ((count * 610 / 987).max(1), Vec::with_capacity(count));
    while gcd(step, count) > 1 {
        step += 1;
    }
    for at in 0..count {
        order.extend(elements[at * step % count].take());
    }
    order
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What probes learn from these answers, which came one after the other.
    fn learnt(experience: &Experience, learn: impl FnOnce(&Probing<'_>)) -> (bool, bool) {
        learnt_of(usize::MAX, experience, learn)
    }

    /// The same, where this many projects are wanted.
    fn learnt_of(projects: usize, experience: &Experience, learn: impl FnOnce(&Probing<'_>)) -> (bool, bool) {
        let probing = Probing::new(projects, http::MAX_ATTEMPTS, experience, "read_repository");
        learn(&probing);
        (probing.is_over(), probing.refused.lock().is_some())
    }

    fn silence() -> Result<BTreeMap<String, Tip>, WireError> {
        Err(RequestError::Late(PROBE_BUDGET).into())
    }

    fn status(status: StatusCode) -> Result<BTreeMap<String, Tip>, WireError> {
        let refuses_login = status == StatusCode::UNAUTHORIZED;
        Err(RequestError::Status { status, retry_after: None, said: String::new(), refuses_login }.into())
    }

    #[test]
    fn silence_counts_only_if_nobody_is_answered_meanwhile() {
        let learn = |answer: fn() -> Result<BTreeMap<String, Tip>, WireError>, later: bool| {
            learnt(&Experience::default(), |probing| {
                let before = Instant::now();
                drop(probing.learn(before, answer()));
                for _ in 0..UNREACHABLE_AFTER {
                    let begun = if later { Instant::now() } else { before };
                    drop(probing.learn(begun, silence()));
                }
            })
        };
        for answer in [|| Ok(BTreeMap::new()), || status(StatusCode::NOT_FOUND), || status(StatusCode::BAD_GATEWAY)] {
            assert_eq!(learn(answer, false), (false, false));
            assert_eq!(learn(answer, true), (true, false));
        }
        let answers = |answer: fn() -> Result<BTreeMap<String, Tip>, WireError>| {
            learnt(&Experience::default(), |probing| {
                for n in 0..10 * UNREACHABLE_AFTER {
                    let found = if n % UNREACHABLE_AFTER == 0 { answer() } else { silence() };
                    drop(probing.learn(Instant::now(), found));
                }
            })
        };
        assert_eq!(answers(|| status(StatusCode::SERVICE_UNAVAILABLE)), (false, false), "an answer is an answer");
        let broken = learnt(&Experience::default(), |probing| {
            (0..1_000).for_each(|_| drop(probing.learn(Instant::now(), status(StatusCode::BAD_GATEWAY))));
        });
        assert_eq!(broken, (false, false));
    }

    #[test]
    fn refusals_add_up_until_the_login_is_accepted() {
        let experience = Experience::default();
        let refuse = |times: usize| {
            learnt(&experience, |probing| {
                (0..times).for_each(|_| drop(probing.learn(Instant::now(), status(StatusCode::UNAUTHORIZED))));
            })
        };
        let answer = |answer| learnt(&experience, |probing| drop(probing.learn(Instant::now(), answer)));
        assert_eq!(refuse(LOGIN_REFUSED_AFTER - 1), (false, false));
        assert_eq!(answer(silence()), (false, false));
        assert_eq!(refuse(1), (true, true), "silence and an earlier pass do not make them fewer");
        assert!(experience.is_refused());
        assert_eq!(refuse(1), (true, true), "the next pass tries once");
        for accepted in [Ok(BTreeMap::new()), status(StatusCode::NOT_FOUND)] {
            answer(accepted);
            assert!(!experience.is_refused());
            assert_eq!(refuse(LOGIN_REFUSED_AFTER - 1), (false, false));
        }
    }

    #[test]
    fn a_login_that_every_wanted_project_refuses_is_refused() {
        for (projects, refusals, is_refused) in [(1, 1, true), (2, 1, false), (2, 2, true), (9, 4, false), (9, 5, true)]
        {
            let learnt = learnt_of(projects, &Experience::default(), |probing| {
                (0..refusals).for_each(|_| drop(probing.learn(Instant::now(), status(StatusCode::UNAUTHORIZED))));
            });
            assert_eq!(learnt, (is_refused, is_refused), "{refusals} of {projects}");
        }
    }
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spreading_loses_nothing(count in 0_usize..2_000) {
            let mut order = spread((0..count).collect());
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_group_that_fails_is_never_in_a_row() {
        let order = spread((0..320).collect());
        let in_a_row = order.chunk_by(|a, b| (*a < 20) == (*b < 20)).filter(|row| row[0] < 20).map(<[_]>::len).max();
        assert!(in_a_row.is_some_and(|most| most < 3), "{in_a_row:?}");
    }
}
