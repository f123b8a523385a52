//! The operator's choices that a plan depends on.
//!
//! Invariant: a choice that does not fit what was observed is an error or a verdict, never a guess.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::BucketWide;
use super::memory::{GuardBudget, WINDOW_HOURS};
use crate::model::key::{ArchiveFormat, Destination, HeldObject, Wanted};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `auto` keeps to the bucket's format, and the bucket has both.
    #[error(
        "the bucket holds {zip} object(s) in the format zip and {tar} in tar.gz, so ARCHIVE_FORMAT=auto cannot tell \
         which to keep to: set ARCHIVE_FORMAT=zip or ARCHIVE_FORMAT=tar.gz (what is held in the other format is then \
         published again)"
    )]
    MixedFormats {
        /// Objects held as `.zip.age`.
        zip: usize,
        /// Objects held as `.tar.age`.
        tar: usize,
    },
    /// `REPUBLISH` names destinations that are not in the target list.
    #[error(
        "REPUBLISH names {}, not in the target list: write its destinations as GROUP/PROJECT@BRANCH, or all",
        names.join(" and ")
    )]
    NothingToRepublish {
        /// The names, as written.
        names: Vec<String>,
    },
}

/// The operator's choices.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// `ARCHIVE_FORMAT`.
    pub format: FormatChoice,
    /// `MAX_RETIRE`.
    pub max_retire: MaxRetire,
    /// `ON_REWRITE`.
    pub on_rewrite: OnRewrite,
    /// What is left to do of `REPUBLISH`: destinations to upload again although nothing changed.
    pub republish: &'a BTreeSet<Destination>,
    /// `CROSSING`.
    pub crossing: Crossing,
    /// `MAX_INCREMENTS`: how many increments a destination has at most.
    pub max_increments: NonZeroUsize,
}

/// `CROSSING`: what is uploaded for a new commit of a branch that the bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// The whole history.
    Whole,
    /// What is new, as long as that is little beside the whole history.
    Incremental,
}

impl fmt::Display for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Incremental => "incremental",
        })
    }
}

/// `REPUBLISH`: what to upload again although nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Republish {
    /// Every destination of the target list.
    All,
    /// Every destination, if the recipients have changed. The reconciler knows that, and turns it into one of the others.
    OnRecipientChange,
    /// These; by default none.
    Named(Vec<Wanted>),
}

impl Republish {
    /// The destinations of the target list that are meant.
    ///
    /// # Errors
    /// [`PlanError::NothingToRepublish`] if a name is not in the target list.
    pub fn among<'a>(&self, listed: impl Iterator<Item = &'a Destination>) -> Result<BTreeSet<Destination>, PlanError> {
        let listed: BTreeSet<&Destination> = listed.collect();
        let wanted = match self {
            Self::All => return Ok(listed.into_iter().cloned().collect()),
            Self::OnRecipientChange => return Ok(BTreeSet::new()),
            Self::Named(wanted) => wanted,
        };
        let unknown: Vec<_> = wanted
            .iter()
            .filter(|wanted| !listed.iter().any(|listed| wanted.matches(listed)))
            .map(Wanted::to_string)
            .collect();
        if !unknown.is_empty() {
            return Err(PlanError::NothingToRepublish { names: unknown });
        }
        let named = listed.into_iter().filter(|listed| wanted.iter().any(|wanted| wanted.matches(listed)));
        Ok(named.cloned().collect())
    }
}

impl FromStr for Republish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if text == "on-recipient-change" {
            return Ok(Self::OnRecipientChange);
        }
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        // A group of a single word could be a misspelt one of the words above.
        let wanted = |name: &str| match name.parse() {
            Ok(wanted) if name.contains('/') => Ok(wanted),
            Ok(_) | Err(_) => {
                Err(format!("{name:?} is not a destination: write GROUP/PROJECT or GROUP/PROJECT@BRANCH, or all"))
            }
        };
        let named: Vec<Wanted> = names.map(wanted).collect::<Result<_, String>>()?;
        if named.is_empty() {
            Err("names nothing: write all, or GROUP/PROJECT@BRANCH".to_owned())
        } else {
            Ok(Self::Named(named))
        }
    }
}

/// `ON_REWRITE`: what to do with a branch whose new head does not descend from the published commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRewrite {
    /// Publish it, and report it.
    Publish,
    /// Keep what is published, and report it in every pass.
    Hold,
}

impl fmt::Display for OnRewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Hold => "hold",
        })
    }
}

/// How much of what a day may retire is used, this pass included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetireBudget {
    /// Destinations that the bucket holds.
    pub held: usize,
    /// Destinations retired within 24 hours.
    pub retired: usize,
    /// How many that may be; `None` if all of them.
    pub limit: Option<usize>,
}

impl fmt::Display for RetireBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => write!(f, "retired {} of at most {limit} in {WINDOW_HOURS} h", self.retired),
            None => write!(f, "retired {} in {WINDOW_HOURS} h, without a limit", self.retired),
        }
    }
}

/// The retire guard's verdict: a pass would delete more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetireGuard {
    /// Destinations that no target names any more.
    pub would_retire: usize,
    /// Destinations that the bucket holds.
    pub held: usize,
    /// How many may be retired in 24 hours.
    pub limit: usize,
    /// How many of them were retired before this pass.
    pub used: usize,
    /// Whether the target list was empty.
    pub no_targets: bool,
    /// How many more apps of the target list have null for their components than at some time within 24 hours.
    pub lost_lists: usize,
}

impl fmt::Display for RetireGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { would_retire, held, limit, used, no_targets, lost_lists } = self;
        if *no_targets {
            return write!(
                f,
                "the target list is empty while the bucket holds {held} destination(s): nothing is retired. To \
                 delete them all, set MAX_RETIRE=100%"
            );
        }
        if *lost_lists > 0 {
            return write!(
                f,
                "{lost_lists} more app(s) of the target list than before have no components (codeComponents is null), and \
                 {would_retire} of the {held} destinations held are no longer wanted: nothing is retired. Check the \
                 target list; if it is right, this ends after {WINDOW_HOURS} h, or with one pass with MAX_RETIRE=100% \
                 (beside a daemon, with an empty WORKDIR of its own)"
            );
        }
        let used = if *used > 0 { format!(", of which {used} are used") } else { String::new() };
        write!(
            f,
            "{would_retire} of the {held} destinations held are no longer wanted and MAX_RETIRE allows {limit} in \
             {WINDOW_HOURS} h{used}: nothing is retired. Check the target list; if it is right, raise MAX_RETIRE (a \
             number or a percentage)"
        )
    }
}

/// `ARCHIVE_FORMAT`: which format to publish in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatChoice {
    /// The format the bucket holds; `zip` in an empty one.
    Auto,
    /// This one, whatever the bucket holds.
    Only(ArchiveFormat),
}

impl FormatChoice {
    /// The format to publish in, given all held objects.
    ///
    /// # Errors
    /// [`PlanError::MixedFormats`].
    pub fn resolve(self, held: &[HeldObject]) -> Result<ArchiveFormat, PlanError> {
        let count = |format| held.iter().filter(|object| object.name.content.format() == Some(format)).count();
        match (self, count(ArchiveFormat::Zip), count(ArchiveFormat::TarGz)) {
            (Self::Only(format), _, _) => Ok(format),
            (Self::Auto, _, 0) => Ok(ArchiveFormat::Zip),
            (Self::Auto, 0, _) => Ok(ArchiveFormat::TarGz),
            (Self::Auto, zip, tar) => Err(PlanError::MixedFormats { zip, tar }),
        }
    }
}

impl fmt::Display for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(format) => format.fmt(f),
        }
    }
}

impl FromStr for FormatChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "zip" => Ok(Self::Only(ArchiveFormat::Zip)),
            "tar.gz" => Ok(Self::Only(ArchiveFormat::TarGz)),
            other => Err(format!("{other:?} is not an archive format: write auto, zip or tar.gz")),
        }
    }
}

/// `MAX_RETIRE`: how many of the held destinations may be retired in 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxRetire {
    /// This many destinations.
    Count(usize),
    /// This share of the most destinations held in that time, 0 to 100, rounded down.
    Percent(u8),
}

impl MaxRetire {
    /// The guard's verdict on retiring `would_retire` of `held` destinations; `None` allows it.
    pub(super) fn guard(
        self,
        would_retire: usize,
        held: usize,
        bucket_wide: &BucketWide,
        budget: GuardBudget,
    ) -> (RetireBudget, Option<RetireGuard>) {
        let GuardBudget { most_held, retired_before: used, fewest_unlisted } = budget;
        // What disappeared by other means does not make room for retirements.
        let most_held = most_held.max(held).min(held.saturating_add(used));
        let limit = match self {
            // Zero means that nothing is retired. Any other percentage allows one, or a small bucket could never lose its
            // last destination.
            Self::Count(0) | Self::Percent(0) => 0,
            Self::Count(count) => count,
            Self::Percent(percent) => (most_held * usize::from(percent) / 100).max(1),
        };
        // An app without components has null, too, so null alone says nothing. More of it than before may.
        let lost_lists = fewest_unlisted.map_or(0, |fewest| bucket_wide.unlisted_apps.saturating_sub(fewest));
        let no_targets = bucket_wide.no_targets;
        let too_many = used.saturating_add(would_retire) > limit;
        let no_limit = self == Self::Percent(100);
        let refused = would_retire > 0 && !no_limit && (no_targets || lost_lists > 0 || too_many);
        let guard = RetireGuard { would_retire, held, limit, used, no_targets, lost_lists };
        let retired = used.saturating_add(if refused { 0 } else { would_retire });
        let budget = RetireBudget { held, retired, limit: (!no_limit).then_some(limit) };
        (budget, refused.then_some(guard))
    }
}

impl fmt::Display for MaxRetire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for MaxRetire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        parsed
            .ok_or_else(|| format!("{text:?} is not a limit: write a number, like 20, or a percentage from 0% to 100%"))
    }
}
