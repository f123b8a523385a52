//! One thing that goes wrong, in a world of its own: before, during and after it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use testbed::fault::{ClosedPort, Fault, FullPort, Proxy, Seen};
use testbed::graphql::SyncTarget;
use testbed::s3::S3Options;
use testbed::world::World;

use crate::common::{Cause, IMPATIENT, Mishap, needs_impatience};
use crate::invariants::{self, Ledger};
use crate::support::{Run, assert_clean, pass, program, s3_writes, zip_key};

/// Cases at work side by side: nearly all of their time is waiting.
const SIDE_BY_SIDE: usize = 24;

/// What a case's pass gets done in spite of what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything: it was mended within the pass.
    Mended,
    /// Everything but the project `sick`.
    SickFails,
    /// Everything, and that the object of `sick` is stored is not heard of: what it replaces stays beside it.
    DoneUnheard,
    /// What is new is stored, and what it replaces or is not wanted stays beside it.
    NothingIsDeleted,
    /// No head can be read: nothing is published, and what no target names is retired.
    NoHeads,
    /// Nothing at all.
    NothingChanges,
}

/// The servers of one case with a proxy in front of each.
pub struct Scene {
    /// What has to be there as long as the scene; it goes before the world's folder does.
    pub kept: Vec<Box<dyn Any>>,
    pub world: World,
    pub graphql: Proxy,
    pub git: Proxy,
    pub s3: Proxy,
    pub ledger: Ledger,
    /// Another server, which must not hear anything.
    pub elsewhere: Proxy,
    /// The key that the project `sick` gets in the pass in which things go wrong.
    pub sick_key: String,
    well_key: String,
    settings: Vec<(String, String)>,
    /// The longest file that the program may write, in KiB.
    pub file_limit_kib: Option<u32>,
}

/// How much has changed in the project `sick`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A commit of a few bytes.
    Small,
    /// So much that its object is uploaded in three parts.
    Large,
}

impl Scene {
    /// Three destinations are in the bucket. Since then `sick` and `well` have changed, and `gone` is not wanted any
    /// more.
    pub fn set(change: Change) -> Self {
        let world = World::builder().s3(S3Options { page_keys: 2, ..S3Options::default() }).start().unwrap();
        let target =
            |from: &str, to: &str| SyncTarget::new(&format!("near/{from}"), "main", &format!("far/{to}"), "main");
        for name in ["sick", "well"] {
            world.project(&format!("near/{name}")).unwrap();
        }
        world.graphql.set_targets(vec![target("sick", "sick"), target("well", "well"), target("well", "gone")]);
        let mut ledger = Ledger::default();
        ledger.note(&world);
        pass(&world).succeeded();
        let sick = world.source.repo("near/sick").unwrap();
        match change {
            Change::Small => drop(sick.commits("main", 1).unwrap()),
            Change::Large => sick.fill_incompressible(20, 1).unwrap(),
        }
        let well = world.source.repo("near/well").unwrap().commits("main", 1).unwrap();
        world.unsync("far/gone", "main");
        ledger.note(&world);
        world.s3().clear_requests();
        world.source.clear_requests();
        Self {
            graphql: Proxy::start(&world.graphql.url()).unwrap(),
            git: Proxy::start(&world.source.url()).unwrap(),
            s3: Proxy::start(&world.s3().url()).unwrap(),
            elsewhere: Proxy::start(&world.source.url()).unwrap(),
            sick_key: zip_key("far/sick", "main", &sick.head("main").unwrap()),
            well_key: zip_key("far/well", "main", &well),
            settings: vec![],
            kept: vec![],
            file_limit_kib: None,
            ledger,
            world,
        }
    }

    /// The program's settings that lead through the proxies.
    pub fn through_proxies(&self) -> Vec<(String, String)> {
        let mut settings = vec![
            ("GRAPHQL_SERVER".to_owned(), format!("{}/graphql", self.graphql.url())),
            ("GITLAB_BASE_URL".to_owned(), self.git.url()),
            ("AWS_ENDPOINT_URL_S3".to_owned(), self.s3.url()),
        ];
        settings.extend(self.settings.iter().cloned());
        settings
    }

    /// Another setting for the pass in which things go wrong.
    pub fn setting(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// How many requests met a rule.
    fn hits(&self) -> usize {
        self.graphql.hits() + self.git.hits() + self.s3.hits()
    }

    /// Whether a request to S3 is this operation and about the object that `sick` gets.
    pub fn of_sick(&self, operation: &'static str) -> impl Fn(&Seen) -> bool + Send + 'static {
        let key = self.sick_key.clone();
        move |seen| seen.operation() == operation && seen.path.ends_with(&key)
    }

    /// The pass in which things go wrong.
    fn disturbed_pass(&self) -> Run {
        let mut command = match self.file_limit_kib {
            None => program(&self.world, &["-run-once"]),
            Some(limit) => program_with_file_limit(&self.world, limit),
        };
        command.envs(self.through_proxies()).env("RUST_LOG", "trace");
        let mut run = Run::from(command.output().expect("the program starts"));
        // Whatever the libraries tell of failures must not hold a secret; for people it is too much.
        assert!(run.log.contains(" TRACE "), "libraries log\n{}", run.log);
        assert_clean(&self.world, "the log", run.log.as_bytes());
        let levels = [" INFO ", " WARN ", " ERROR "];
        let lines = run
            .log
            .lines()
            .filter(|line| levels.iter().any(|level| line.get(27..35).is_some_and(|start| start.contains(level))));
        run.log = lines.map(|line| format!("{line}\n")).collect();
        run
    }

    /// Two more passes without anything in between the program and its servers: the first mends everything, the second
    /// has nothing to do.
    #[track_caller]
    pub fn heals(&mut self) {
        let before = invariants::held(&self.world);
        let run = pass(&self.world).succeeded();
        invariants::check(&self.world, &mut self.ledger, &before, &run);
        invariants::check_converged(&self.world, &run);
        self.world.s3().clear_requests();
        let quiet = pass(&self.world).succeeded();
        assert_eq!(s3_writes(&self.world), [""; 0], "the second pass is quiet");
        assert_eq!(quiet.lines().len(), 1, "a quiet pass is one line:\n{}", quiet.log);
    }
}

/// The program, not yet started, with a limit that makes writing fail where a file gets longer.
fn program_with_file_limit(world: &World, limit_kib: u32) -> Command {
    // Without the trap the signal that goes with it would end the program.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" -run-once", limit_kib * 2);
    let mut command = world.command("sh");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_git-partition-sync-producer"));
    command
}

/// Prepares what goes wrong.
type Arrange = Box<dyn FnOnce(&mut Scene) + Send>;

/// A case.
pub struct Case {
    name: String,
    change: Change,
    arrange: Arrange,
    outcome: Outcome,
    says: Vec<String>,
    hits: bool,
    afterwards: Arrange,
}

/// Matches requests for the project `sick`.
pub fn git_of_sick(operation: &'static str) -> impl Fn(&Seen) -> bool + Send + 'static {
    move |seen| seen.operation() == operation && seen.path.contains("near/sick")
}

/// Matches requests of this kind.
pub fn any(operation: &'static str) -> impl Fn(&Seen) -> bool + Send + 'static {
    move |seen| seen.operation() == operation
}

impl Case {
    /// What goes wrong is arranged by `arrange` and has this outcome.
    pub fn new(name: impl Into<String>, outcome: Outcome, arrange: impl FnOnce(&mut Scene) + Send + 'static) -> Self {
        Self {
            name: name.into(),
            change: Change::Small,
            arrange: Box::new(arrange),
            outcome,
            says: vec![],
            hits: true,
            afterwards: Box::new(|_| {}),
        }
    }

    /// The project `sick` has changed so much that its object is uploaded in parts.
    #[must_use]
    pub fn large(mut self) -> Self {
        self.change = Change::Large;
        self
    }

    /// What the log must say where it tells of the failure.
    #[must_use]
    pub fn says(mut self, text: &str) -> Self {
        self.says.push(text.to_owned());
        self
    }

    /// Nothing goes wrong at a proxy: the setting for the address leads elsewhere, or a server has changed.
    #[must_use]
    pub fn without_a_rule(mut self) -> Self {
        self.hits = false;
        self
    }

    /// Silence is noticed in a test's time.
    #[must_use]
    pub fn impatient(self) -> Self {
        let arrange = self.arrange;
        let arrange = move |scene: &mut Scene| {
            IMPATIENT.iter().for_each(|(name, value)| scene.setting(name, value));
            arrange(scene);
        };
        Self { arrange: Box::new(arrange), ..self }
    }

    /// What is done after the checks, before the pass that mends everything.
    #[must_use]
    pub fn afterwards(mut self, mend: impl FnOnce(&mut Scene) + Send + 'static) -> Self {
        self.afterwards = Box::new(mend);
        self
    }

    /// The repository of `sick` is away, and is there again afterwards.
    #[must_use]
    pub fn comes_back(self) -> Self {
        self.afterwards(|scene| {
            // It may be the path alone that is gone.
            scene.world.source.remove("near/sick").ok();
            scene.world.project("near/sick").unwrap();
        })
    }

    /// A mishap that any server can have. `words` are what the log says of its cause.
    pub fn of(
        mishap: Mishap,
        failure: Outcome,
        words: impl Fn(Cause) -> String,
        place: impl FnOnce(&Scene, usize, Fault) + Send + 'static,
    ) -> Self {
        let Mishap { name, fault, times, cause } = mishap;
        let outcome = if cause.is_none() { Outcome::Mended } else { failure };
        let case = Self::new(name, outcome, move |scene| {
            if needs_impatience(&fault) {
                IMPATIENT.iter().for_each(|(name, value)| scene.setting(name, value));
            }
            place(scene, times, fault);
        });
        cause.into_iter().fold(case, |case, cause| case.says(&words(cause)))
    }

    fn run(self) {
        let mut scene = Scene::set(self.change);
        let before = (invariants::held(&scene.world), scene.world.s3().keys());
        (self.arrange)(&mut scene);

        let run = scene.disturbed_pass();

        let name = &self.name;
        let told: Vec<&str> =
            run.log.lines().filter(|line| line.contains(" ERROR ") || line.contains("nothing was changed")).collect();
        println!("{name}\n    {}", told.join("\n    "));
        assert_eq!(scene.hits() > 0, self.hits, "{name}: whether the fault took place\n{}", run.log);
        assert_eq!(scene.elsewhere.connections(), 0, "{name}: another server was asked");
        let held = scene.world.s3().keys();
        let has = |key: &String| held.contains(key);
        let done = (has(&scene.sick_key), has(&scene.well_key), invariants::held(&scene.world).len());
        let (status, expected) = match self.outcome {
            Outcome::Mended => (0, (true, true, 2)),
            Outcome::SickFails => (1, (false, true, 2)),
            Outcome::DoneUnheard => (1, (true, true, 2)),
            Outcome::NothingIsDeleted => (1, (true, true, 3)),
            Outcome::NoHeads => (1, (false, false, 2)),
            Outcome::NothingChanges => (1, (false, false, 3)),
        };
        assert_eq!((run.status, done), (status, expected), "{name}\n{}", run.log);
        if self.outcome == Outcome::NothingChanges {
            assert_eq!(held, before.1, "{name}");
        }
        if self.outcome == Outcome::Mended {
            assert_eq!(told, [""; 0], "{name}: nothing to complain of");
        } else {
            assert!(!self.says.is_empty(), "{name}: no words are expected");
            let about = if self.outcome == Outcome::NothingChanges { "nothing was changed" } else { "far/sick" };
            let line = told.iter().find(|line| line.contains(about));
            let line = line.unwrap_or_else(|| panic!("{name}: no line about {about}\n{}", run.log));
            for text in &self.says {
                assert!(line.contains(text.as_str()), "{name}: {text:?} is not in: {line}");
            }
        }
        invariants::check(&scene.world, &mut scene.ledger, &before.0, &run);
        for proxy in [&scene.graphql, &scene.git, &scene.s3] {
            proxy.clear();
        }
        (self.afterwards)(&mut scene);
        scene.heals();
    }
}

/// A server's address leads nowhere: `variable` holds it, and `path` follows it.
pub fn unreachable(
    variable: &'static str,
    path: &'static str,
    outcome: Outcome,
    words: impl Fn(Cause) -> String,
) -> Vec<Case> {
    let case = |name: &str, cause, url: fn(&mut Scene) -> String| {
        let case = Case::new(name, outcome, move |scene| {
            let url = url(scene);
            scene.setting(variable, &format!("{url}{path}"));
            scene.setting("ALLOW_INSECURE_HTTP", "true");
            scene.setting("CONNECT_TIMEOUT", "1s");
        });
        case.without_a_rule().says(&words(cause))
    };
    vec![
        case("connection refused", Cause::Away, |scene| {
            let port = ClosedPort::new().unwrap();
            let url = port.url();
            scene.kept.push(Box::new(port));
            url
        }),
        case("no such host", Cause::Away, |_| "http://nowhere.invalid".to_owned()),
        case("silence while connecting", Cause::Silent, |scene| {
            let port = FullPort::new().unwrap();
            let url = port.url();
            scene.kept.push(Box::new(port));
            url
        }),
    ]
}

/// Runs all cases, some side by side, and reports all that fail.
#[track_caller]
pub fn run_all(mut cases: Vec<Case>) {
    // What fails to the end takes longest.
    cases.sort_by_key(|case| case.outcome == Outcome::Mended);
    side_by_side(cases.into_iter().map(|case| (case.name.clone(), move || case.run())).collect());
}

/// Runs what has a name, some side by side, and reports all that fail. `FAULT` in the environment picks by a part of
/// the name.
#[track_caller]
pub fn side_by_side(mut work: Vec<(String, impl FnOnce() + Send)>) {
    let only = std::env::var("FAULT").unwrap_or_default();
    work.retain(|(name, _)| name.contains(&only));
    let (queue, failed) = (Mutex::new(VecDeque::from(work)), Mutex::new(vec![]));
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some((name, work)) = next else { return };
                    // The panic's message is printed where it happens.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), [""; 0].map(String::from), "these failed");
}
