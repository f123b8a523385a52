//! The two programs of this package: one on each side of the partition.

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// On the near side: from GitLab into the bucket.
    Producer,
    /// On the far side: from the bucket into the other GitLab.
    Consumer,
}

impl Program {
    /// Both programs, for loops over them.
    pub const ALL: [Self; 2] = [Self::Producer, Self::Consumer];

    /// Its name: of the binary, of its folder under WORKDIR, and in the metrics' label `integration`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Producer => "git-partition-sync-producer",
            Self::Consumer => "git-partition-sync-consumer",
        }
    }

    /// Its name, and its version.
    pub fn name_and_version(self) -> String {
        format!("{} {}", self.name(), env!("CARGO_PKG_VERSION"))
    }

    /// What a pass reads before it has a plan, in words.
    pub const fn observes(self) -> &'static str {
        match self {
            Self::Producer => "targets, branches and bucket",
            Self::Consumer => "the bucket and the far branches",
        }
    }
}
