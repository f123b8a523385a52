//! AWS credentials: from the environment, a profile, or a container's server; and what is said of those that are not good.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use testbed::world::World;

use crate::support::{Run, count, program};

/// A world with one object to list.
fn with_an_object() -> World {
    let world = World::start().unwrap();
    world.s3().put("an object", "somebody's");
    world
}

/// The program without an access key in its environment.
fn without_key(world: &World, arguments: &[&str]) -> Command {
    let mut command = program(world, arguments);
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(variable);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// An AWS profile, in place of the environment's access key.
fn with_profile(world: &World, arguments: &[&str], profile: &str) -> Run {
    let file = world.scratch().unwrap().join("credentials");
    fs::write(&file, format!("[default]\n{profile}\n")).unwrap();
    let mut command = without_key(world, arguments);
    command.env("AWS_SHARED_CREDENTIALS_FILE", &file).env("AWS_CONFIG_FILE", &file).output().unwrap().into()
}

/// A server on loopback that gives containers their credentials, as ECS and EKS do: this answer to each request. Returns
/// its URL, and the login that each request brought.
fn container_credentials(status: &str, body: &str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/credentials", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let (logins, seen) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let lines = BufReader::new(&mut connection).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
            let login = lines.filter_map(|line| Some(line.split_once("uthorization: ")?.1.to_owned())).last();
            drop(logins.send(login.unwrap_or_default()));
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, seen)
}

#[test]
fn a_container_s_credentials_are_used() {
    let world = with_an_object();
    let [id, key] = [world.s3().access_key(), world.s3().secret_key()];
    let body = format!(
        r#"{{"AccessKeyId":"{id}","SecretAccessKey":"{key}","Token":"a-session","Expiration":"2100-01-01T00:00:00Z"}}"#
    );
    let (url, seen) = container_credentials("200 OK", &body);
    let mut command = without_key(&world, &["list"]);
    command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url).env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token");
    // A proxy is not asked for them.
    command.env("HTTP_PROXY", "http://127.0.0.1:9");
    Run::from(command.output().unwrap()).succeeded();
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["pod-token"]);
    let requests = world.s3().requests();
    assert!(requests.iter().any(|request| request.header("x-amz-security-token") == Some("a-session")));
}

#[test]
fn a_container_s_credentials_that_are_refused_are_named() {
    let world = with_an_object();
    for (status, body, says) in [
        ("403 Forbidden", r#"{"code":"AccessDenied","message":"no role"}"#, "answered 403: check the role of the pod"),
        ("404 Not Found", "<html>nothing here</html>", "answered 404: check the role of the pod"),
        ("200 OK", "<html>a page</html>", ""),
        (
            "200 OK",
            r#"{"AccessKeyId":"AKIA EXAMPLE","SecretAccessKey":"x","Token":"t","Expiration":"2100-01-01T00:00:00Z"}"#,
            "the access key is blank, or holds a space",
        ),
    ] {
        let (url, _seen) = container_credentials(status, body);
        let mut command = without_key(&world, &["list"]);
        command
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token-9f1c");
        let run = Run::from(command.output().unwrap()).failed();
        assert!(!run.log.contains("pod-token-9f1c") && !run.log.contains("EXAMPLE"), "{}", run.log);
        run.logged("S3 cannot list the bucket git-sync: could not load the AWS credentials: ").logged(says);
    }
    assert_eq!(count(&world.s3().requests(), "ListObjectsV2"), 0);
}

#[test]
fn a_profile_that_is_not_one_fails_what_needs_it() {
    let world = with_an_object();
    for (profile, says) in [
        ("[default\nno profile", "could not parse profile file"),
        ("\0\u{1}\u{2}", "could not parse profile file"),
        ("aws_access_key_id = AKIA", "missing aws_secret_access_key"),
    ] {
        for arguments in [["list"].as_slice(), &["-run-once"], &["restore", "-identity", "IDENTITY"]] {
            let identity = world.identity_file().to_str().unwrap();
            let arguments: Vec<_> = arguments.iter().map(|it| if *it == "IDENTITY" { identity } else { it }).collect();
            let run = with_profile(&world, &arguments, profile).failed();
            run.logged("S3 cannot list the bucket git-sync: could not load the AWS credentials: ").logged(says);
        }
    }
    assert_eq!(count(&world.s3().requests(), "ListObjectsV2"), 0);
}

#[test]
fn white_space_around_an_access_key_is_cut_off() {
    let world = with_an_object();
    let (id, key) = (world.s3().access_key().to_owned(), world.s3().secret_key().to_owned());
    for (before, after) in [("", "\n"), ("", "\r\n"), (" ", " \t"), ("\n", "\u{a0}")] {
        for arguments in [["list"].as_slice(), &["-run-once"], &["check"]] {
            let wrap = |text: &str| format!("{before}{text}{after}");
            let mut command = program(&world, arguments);
            command.env("AWS_ACCESS_KEY_ID", wrap(&id)).env("AWS_SECRET_ACCESS_KEY", wrap(&key));
            Run::from(command.output().unwrap()).succeeded();
        }
    }
    for end in ["", " ", "\t", "\u{a0}"] {
        let profile = format!("aws_access_key_id = {id}{end}\naws_secret_access_key = {key}{end}");
        with_profile(&world, &["list"], &profile).succeeded();
    }
}

#[test]
fn what_no_header_can_hold_is_refused_before_a_request() {
    let world = with_an_object();
    for (variable, value) in [
        ("AWS_ACCESS_KEY_ID", "AKIA\nEXAMPLE"),
        ("AWS_ACCESS_KEY_ID", "AKIA EXAMPLE"),
        ("AWS_ACCESS_KEY_ID", "AKIA\u{200b}"),
        ("AWS_ACCESS_KEY_ID", "\n"),
        ("AWS_SECRET_ACCESS_KEY", " \n"),
        ("AWS_SESSION_TOKEN", "to\nken"),
        ("AWS_SESSION_TOKEN", "tök"),
        ("AWS_REGION", "us-öst-1"),
        ("AWS_REGION", "us east 1"),
        ("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE\n"),
        ("AWS_EXECUTION_ENV", "ECS\u{7f}"),
        ("AWS_SDK_UA_APP_ID", "producer\n"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "EXAMPLE\n"),
    ] {
        for arguments in [["list"].as_slice(), &["-run-once"], &["check"]] {
            let mut command = program(&world, arguments);
            let run = Run::from(command.env(variable, value).output().unwrap()).refused();
            assert!(run.log.starts_with(&format!("{variable}: ")), "{}", run.log);
            assert!(!run.log.contains("panicked") && !run.log.contains("EXAMPLE"), "{}", run.log);
        }
    }
    let profile = "aws_access_key_id = AKIA\u{200b}EXAMPLE\naws_secret_access_key = x";
    let run = with_profile(&world, &["list"], profile).failed().logged("the access key is blank, or holds a space");
    assert!(!run.log.contains("EXAMPLE"), "{}", run.log);
    let mut command = program(&world, &["list"]);
    let run = Run::from(command.env_remove("AWS_REGION").env("AWS_DEFAULT_REGION", "us-east-1\n").output().unwrap());
    assert!(run.refused().log.starts_with("AWS_DEFAULT_REGION: "));
    assert!(count(&world.s3().requests(), "ListObjectsV2") == 0);
}

#[test]
fn the_source_of_a_role_is_refused_if_no_header_can_hold_its_key() {
    let world = with_an_object();
    let source = |key: &str, role: &str| {
        format!(
            "{role}\nsource_profile = via\n[profile via]\n{role}\nsource_profile = source\n[profile source]\n{key}\n"
        )
    };
    let role = "role_arn = arn:aws:iam::123456789012:role/r";
    for (key, says) in [
        ("aws_access_key_id = AKIA\n  EXAMPLE\naws_secret_access_key = x", "the access key is blank, or holds"),
        ("aws_access_key_id = AKIA\u{7f}EXAMPLE\naws_secret_access_key = x", "the access key is blank, or holds"),
        (
            "aws_access_key_id = AKIA\naws_secret_access_key = x\naws_session_token = to\n  kEXAMPLE",
            "the session token is blank, or holds",
        ),
    ] {
        let run = with_profile(&world, &["list"], &source(key, role)).failed().logged(says);
        assert!(!run.log.contains("EXAMPLE") && !run.log.contains("internal error"), "{}", run.log);
    }
    // A profile that is not used does no harm.
    let file = world.scratch().unwrap().join("credentials");
    let mut command = program(&world, &["list"]);
    let run = command.env("AWS_SHARED_CREDENTIALS_FILE", &file).env("AWS_CONFIG_FILE", &file).output().unwrap();
    Run::from(run).succeeded();
}

#[test]
fn the_token_file_of_a_container_must_not_end_in_a_line_end() {
    let world = with_an_object();
    let (url, seen) = container_credentials("200 OK", "{}");
    let file = world.scratch().unwrap().join("token");
    fs::write(&file, "pod-token-9f1c\n").unwrap();
    let mut command = without_key(&world, &["list"]);
    command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url).env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file);
    let run = Run::from(command.output().unwrap()).failed();
    assert!(!run.log.contains("pod-token-9f1c"), "{}", run.log);
    run.logged("the token in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE holds a line end");
    assert!(seen.try_recv().is_err());
}

#[test]
fn a_login_that_the_program_does_not_take_is_named_in_plain_words() {
    let world = with_an_object();
    let run = with_profile(&world, &["list"], "credential_process = /bin/true").failed();
    assert!(run.log.contains("the AWS profile names a credential_process"), "{}", run.log);
    let sso = "sso_start_url = https://sso.example.com\nsso_region = us-east-1\nsso_account_id = 1\nsso_role_name = r";
    let run = with_profile(&world, &["list"], sso).failed();
    assert!(run.log.contains("the AWS profile names a login with a browser"), "{}", run.log);
    assert!(!run.log.contains("cargo"), "{}", run.log);
}
