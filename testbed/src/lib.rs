//! The world around the program, real and on loopback, for tests, benches and the demo.
//!
//! | module | stands for |
//! |---|---|
//! | [`repo`] | repositories of every shape, made by `git fast-import` |
//! | [`git`] | a GitLab: Git smart HTTP with Basic auth over the real `git http-backend`; its rules for pushes |
//! | [`graphql`] | a qontract-server: a real schema, executed |
//! | [`s3`] | an S3 in memory, with fault hooks |
//! | [`seaweed`] | an S3 that is not our own program: SeaweedFS |
//! | [`bucket`] | an S3 client that sees either of them as a far side would |
//! | [`fault`] | what goes wrong on the wire: a proxy to put in front of any of the servers |
//! | [`consumer`] | the Go program's far side: download, decrypt, unpack, push |
//! | [`archive`] | objects of every shape that no producer made |
//! | [`mutate`] | senders of damaged bytes |
//! | [`judge`] | outside programs that check an artifact |
//! | [`world`] | all of the above, wired together for one test |
//! | [`tunnel`] | a network behind a proxy, and a server whose TLS is too old |
//! | [`http`] | the log of requests that all servers keep |
//! | [`cpu`] | machines of their own, for benches |
//!
//! Invariants: every server listens only on 127.0.0.1. Dropping a server stops it and the processes it started. Callers
//! need no async runtime: each server has its own.

pub mod archive;
pub mod bucket;
pub mod consumer;
pub mod cpu;
pub mod fault;
pub mod git;
pub mod graphql;
pub mod http;
pub mod judge;
pub mod mutate;
mod program;
pub mod repo;
pub mod s3;
pub mod seaweed;
pub mod tunnel;
pub mod world;
