//! S3 fails: for all that is in the bucket, or for one object.

use std::time::Duration;

use testbed::fault::{ALWAYS, At, Fault, Moment};

use crate::case::{Case, Change, Outcome, Scene, any, run_all, unreachable};
use crate::common::{Cause, mishaps};
use crate::support::{Daemon, Run, keys, pass_with, program};

/// What the log says of a cause.
fn words(cause: Cause) -> String {
    match cause {
        Cause::Broken => "the connection ".to_owned(),
        Cause::Silent => "no answer in time".to_owned(),
        Cause::Status(status) => format!("the server answered {status}: it is overloaded or broken"),
        Cause::Away => "the connection failed: client error (Connect)".to_owned(),
    }
}

/// An answer of status 200 with this body, and headers.
fn answer(headers: &[(&str, &str)], body: &str) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Answer { status: 200, headers, body: body.as_bytes().to_vec() }
}

/// The same with an ETag, as if something were stored.
fn stored(body: &str) -> Fault {
    answer(&[("etag", "\"1\"")], body)
}

/// What a proxy answers in S3's place.
fn web_page() -> Fault {
    answer(&[("content-type", "text/html")], "<html><body><h1>Down for maintenance</h1><br></body></html>")
}

fn list_fails(name: &str, says: &str, fault: impl FnOnce(&Scene) -> Fault + Send + 'static) -> Case {
    let case = Case::new(name, Outcome::NothingChanges, move |scene| {
        let fault = fault(scene);
        scene.s3.on(any("ListObjectsV2"), ALWAYS, fault);
    });
    case.says("S3 cannot list the bucket git-sync: ").says(says)
}

#[test]
fn the_bucket_is_listed_whole_or_nothing_changes() {
    let mishaps = mishaps().into_iter().map(|mishap| {
        let place = |scene: &Scene, times, fault| scene.s3.on(any("ListObjectsV2"), times, fault);
        Case::of(mishap, Outcome::NothingChanges, words, place).says("S3 cannot list the bucket git-sync: ")
    });
    let mut cases: Vec<Case> = mishaps.collect();
    cases.push(list_fails("half a page", "ended before it was complete", |_| Fault::truncate(At::Half)));
    cases.push(list_fails("an empty answer", "ended before it was complete", |_| Fault::alter(|_| vec![])));
    let page = |elements: &str| answer(&[], &format!("<ListBucketResult>{elements}</ListBucketResult>"));
    let object =
        |key: &str| format!("<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00Z</LastModified></Contents>");
    let last = "<IsTruncated>false</IsTruncated>";
    for (name, says, fault) in [
        ("a web page", "is not S3's, as it is a web page", web_page()),
        (
            "a page that is no XML, with a proper end",
            "is not well-formed XML",
            page(&format!("{last}<Contents><Key>x</Contents>")),
        ),
        ("a control character in a key", "is not well-formed XML", page(&format!("{}{last}", object("a\u{1b}b")))),
        ("a page that says nothing", "without IsTruncated", page("")),
        ("an empty element", "without IsTruncated", answer(&[], "<ListBucketResult/>")),
        (
            "fewer objects than are counted",
            "in KeyCount",
            page(&format!("{last}<KeyCount>2</KeyCount>{}", object("a"))),
        ),
        (
            "a page with others to follow and no token for them",
            "without a token for the next page",
            page("<IsTruncated>true</IsTruncated>"),
        ),
        (
            "an empty token",
            "without a token for the next page",
            page("<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>"),
        ),
        ("a key that cannot be read", "without an object's key", page(&format!("{}{last}", object("<![CDATA[key]]>")))),
        ("a part of a page", "as S3 does not say success with that status", Fault::status(206)),
        (
            "a key that is too long",
            "with a key of more than 1024 bytes",
            page(&format!("{}{last}", object(&"k".repeat(1_025)))),
        ),
    ] {
        let case = Case::new(name, Outcome::NothingChanges, move |scene| {
            scene.s3.on(any("ListObjectsV2"), ALWAYS, fault);
        });
        cases.push(case.says("list the bucket").says(says));
    }
    cases.push(list_fails("redirect elsewhere", "307", |scene| {
        Fault::status_with(307, "location", &format!("{}/git-sync?list-type=2", scene.elsewhere.url()))
    }));
    for (name, status, code, says) in [
        ("access denied", 403, "AccessDenied", "check the bucket's policy"),
        ("a wrong clock", 403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        ("no such bucket", 404, "NoSuchBucket", "check AWS_S3_BUCKET and AWS_REGION"),
        ("slow down", 503, "SlowDown", "S3 is overloaded; the next pass tries again"),
        ("an expired session", 400, "ExpiredToken", "check the AWS credentials"),
    ] {
        cases.push(list_fails(name, says, move |_| Fault::s3_error(status, code)).says(code));
    }
    // A page holds two of the three objects.
    let second_page = |name: &str, says: &str, fault: Fault| {
        let case = Case::new(name, Outcome::NothingChanges, move |scene| {
            scene.s3.on(|seen| seen.query.contains("continuation-token"), ALWAYS, fault);
        });
        case.says("S3 cannot list the bucket git-sync: ").says(says)
    };
    cases.push(second_page("cut between pages", "the connection failed", Fault::Reset(Moment::Unsent)));
    cases.push(second_page("denied between pages", "AccessDenied", Fault::s3_error(403, "AccessDenied")));
    cases.push(
        Case::new("pages without an end", Outcome::NothingChanges, |scene| {
            let page = b"<ListBucketResult><IsTruncated>true</IsTruncated>\
                <NextContinuationToken>again</NextContinuationToken></ListBucketResult>";
            let page = Fault::Answer { status: 200, headers: vec![], body: page.to_vec() };
            scene.s3.on(any("ListObjectsV2"), ALWAYS, page);
        })
        .says("S3 answered the request to list the bucket without an end"),
    );
    cases.push(
        Case::new("TLS with a server that speaks none", Outcome::NothingChanges, |scene| {
            let url = scene.world.s3().url().replace("http://", "https://");
            scene.setting("AWS_ENDPOINT_URL_S3", &url);
        })
        .without_a_rule()
        .says("the server's answer is not TLS: the port may be one for http://"),
    );
    cases.push(Case::new("half a page, once", Outcome::Mended, |scene| {
        scene.s3.on(any("ListObjectsV2"), 1, Fault::truncate(At::Half));
    }));
    cases.extend(unreachable("AWS_ENDPOINT_URL_S3", "", Outcome::NothingChanges, words));
    run_all(cases);
}

/// Whether the server stores the object and its answer, which has no body, is lost.
fn is_lost_answer(fault: &Fault) -> bool {
    matches!(fault, Fault::Reset(Moment::Unanswered))
}

/// Whether it happens within the answer's body. A stored object is answered without one.
fn is_within(fault: &Fault) -> bool {
    matches!(fault, Fault::Reset(Moment::Within(_)) | Fault::Hold(Moment::Within(_)) | Fault::Close(_))
}

/// A case in which the object of `sick` cannot be stored.
fn put_fails(name: &str, operation: &'static str, says: &str, fault: Fault) -> Case {
    let case = Case::new(name, Outcome::SickFails, move |scene| {
        scene.s3.on(scene.of_sick(operation), ALWAYS, fault);
    });
    case.says(says)
}

#[test]
fn an_object_is_stored_whole_or_its_destination_stays_as_it_is() {
    let mut cases = vec![];
    for mishap in mishaps().into_iter().filter(|mishap| !is_within(&mishap.fault)) {
        let failure = if is_lost_answer(&mishap.fault) { Outcome::DoneUnheard } else { Outcome::SickFails };
        let place = |scene: &Scene, times, fault| scene.s3.on(scene.of_sick("PutObject"), times, fault);
        cases.push(Case::of(mishap, failure, words, place));
    }
    for (name, status, code, says) in [
        ("access denied", 403, "AccessDenied", "check the bucket's policy"),
        ("a wrong clock", 403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        ("slow down", 503, "SlowDown", "S3 is overloaded; the next pass tries again"),
        ("the bucket is gone", 404, "NoSuchBucket", "check AWS_S3_BUCKET and AWS_REGION"),
    ] {
        let fault = Fault::s3_error(status, code);
        cases.push(put_fails(name, "PutObject", code, fault).says("S3 cannot store an object: ").says(says));
    }
    for (name, says, fault) in [
        ("a web page", "is not S3's, as it is a web page", web_page()),
        ("success without an ETag", "is not S3's, as it has no ETag", answer(&[], "")),
        ("success with an empty ETag", "is not S3's, as it has no ETag", answer(&[("etag", "\"\"")], "")),
        ("another server's file", "as it has a body of another kind", stored("{\"maintenance\":true}")),
        ("part of a web page", "as it has a body of another kind", stored("<h1>Down</h1><hr>nginx")),
        (
            "accepted, but not done",
            "as S3 does not say success with that status",
            Fault::status_with(202, "etag", "\"1\""),
        ),
        ("an error of status 200", "InternalError", error_of_status_200()),
        (
            "the checksum of other bytes",
            "the checksum of what S3 stored is not that of what was sent",
            answer(&[("etag", "\"1\""), ("x-amz-checksum-crc32", "AAAAAA==")], ""),
        ),
        ("no checksums", "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required", Fault::s3_error(501, "NotImplemented")),
        ("no checksums, in no words", "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required", Fault::status(501)),
    ] {
        cases.push(put_fails(name, "PutObject", says, fault).says("S3 cannot store an object: "));
    }
    cases.push(Case::new("a web page, twice", Outcome::Mended, |scene| {
        scene.s3.on(scene.of_sick("PutObject"), 2, web_page());
    }));
    cases.push(Case::new("slow down, three times", Outcome::Mended, |scene| {
        scene.s3.on(scene.of_sick("PutObject"), 3, Fault::s3_error(503, "SlowDown"));
    }));
    cases.push(
        Case::new("redirect elsewhere", Outcome::SickFails, |scene| {
            let to = format!("{}/git-sync/x", scene.elsewhere.url());
            scene.s3.on(scene.of_sick("PutObject"), ALWAYS, Fault::status_with(307, "location", &to));
        })
        .says("307"),
    );
    run_all(cases);
}

/// S3 answers the end of an upload with status 200 before it knows how that goes.
fn error_of_status_200() -> Fault {
    Fault::s3_error(200, "InternalError")
}

/// The server does what it is asked, and its answer has another body.
fn done_and_answered_by(answer: Fault) -> Fault {
    let Fault::Answer { body, .. } = answer else { panic!("{answer:?} is no answer") };
    Fault::alter(move |_| body.clone())
}

#[test]
fn an_upload_in_parts_is_completed_or_aborted() {
    let denied = || Fault::s3_error(403, "AccessDenied");
    let part_fails = |name: &str, skip, fault: Fault, says: &str| {
        let case = Case::new(name, Outcome::SickFails, move |scene| {
            scene.s3.on_later(skip, scene.of_sick("UploadPart"), ALWAYS, fault);
        });
        case.large().says("S3 cannot store a part of an object").says(says)
    };
    let mended = |name: &str, operation: &'static str, times, fault: Fault| {
        let case = Case::new(name, Outcome::Mended, move |scene| {
            scene.s3.on(scene.of_sick(operation), times, fault);
        });
        case.large()
    };
    let mut cases = vec![
        put_fails("no upload may be begun", "CreateMultipartUpload", "begin an upload: AccessDenied", denied()).large(),
        part_fails("the first part is denied", 0, denied(), "AccessDenied"),
        part_fails("the last part is denied", 2, denied(), "AccessDenied"),
        part_fails("the last part breaks", 2, Fault::Reset(Moment::Unsent), "the connection failed"),
        part_fails("no part is answered", 0, Fault::status(500), "the server answered 500"),
        mended("parts break, twice", "UploadPart", 2, Fault::Reset(Moment::Unsent)),
        mended("parts are lost, twice", "UploadPart", 2, Fault::Reset(Moment::Unanswered)),
        mended("parts are too many, twice", "UploadPart", 2, Fault::s3_error(503, "SlowDown")),
        mended("the end breaks once", "CompleteMultipartUpload", 1, Fault::Reset(Moment::Unsent)),
        mended("the end is an error of status 200, once", "CompleteMultipartUpload", 1, error_of_status_200()),
        put_fails("the end is denied", "CompleteMultipartUpload", "complete an upload: AccessDenied", denied()).large(),
        put_fails(
            "the end is an error of status 200",
            "CompleteMultipartUpload",
            "InternalError",
            error_of_status_200(),
        )
        .large(),
    ];
    for (name, says, fault) in [
        ("an upload is begun by a web page", "S3 cannot begin an upload", web_page()),
        ("a part is answered by a web page", "S3 cannot store a part of an object", web_page()),
        ("the end is answered by a web page", "S3 cannot complete an upload", web_page()),
    ] {
        let operation = match says {
            "S3 cannot begin an upload" => "CreateMultipartUpload",
            "S3 cannot store a part of an object" => "UploadPart",
            _ => "CompleteMultipartUpload",
        };
        cases.push(put_fails(name, operation, says, fault).large().says("is not S3's, as it is a web page"));
    }
    let other_part = answer(&[("etag", "\"1\""), ("x-amz-checksum-crc32", "AAAAAA==")], "");
    let other_end = "<CompleteMultipartUploadResult><ETag>1</ETag><ChecksumCRC32>AAAAAA==-3</ChecksumCRC32></CompleteMultipartUploadResult>";
    let without_e_tag = "<CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>";
    for (name, operation, says, fault) in [
        ("a part has no ETag", "UploadPart", "as it has no ETag", answer(&[], "")),
        ("a part is answered by another server", "UploadPart", "a body of another kind", stored("accepted")),
        ("a part has the checksum of other bytes", "UploadPart", "the checksum of what S3 stored", other_part),
        ("the end has no ETag", "CompleteMultipartUpload", "as it has no ETag", answer(&[], without_e_tag)),
        ("the end is not answered at all", "CompleteMultipartUpload", "S3 cannot complete an upload", answer(&[], "")),
        (
            "the end is done and has the checksum of other bytes",
            "CompleteMultipartUpload",
            "the checksum of what S3 stored",
            done_and_answered_by(answer(&[], other_end)),
        ),
    ] {
        cases.push(put_fails(name, operation, says, fault).large());
    }
    cases.push(
        Case::new("the end is done and answered by an error of status 200", Outcome::DoneUnheard, move |scene| {
            scene.s3.on(scene.of_sick("CompleteMultipartUpload"), ALWAYS, done_and_answered_by(error_of_status_200()));
        })
        .large()
        .says("S3 cannot complete an upload"),
    );
    cases.push(
        Case::new("the end is done and its answer is lost", Outcome::DoneUnheard, |scene| {
            scene.s3.on(scene.of_sick("CompleteMultipartUpload"), 1, Fault::Reset(Moment::Unanswered));
        })
        .large()
        .says("NoSuchUpload")
        .says("already complete; the next pass checks"),
    );
    // It begins first, because it takes the whole limit: enough to come so far on a busy machine.
    cases.insert(
        0,
        Case::new("silence while a part is sent", Outcome::SickFails, |scene| {
            scene.setting("TARGET_TIMEOUT", "60s");
            scene.s3.on(scene.of_sick("UploadPart"), ALWAYS, Fault::Hold(Moment::Unsent));
        })
        .large()
        .says("not finished within TARGET_TIMEOUT"),
    );
    run_all(cases);
}

#[test]
fn what_cannot_be_deleted_stays_beside_its_successor() {
    let cases = vec![
        Case::new("nothing may be deleted", Outcome::NothingIsDeleted, |scene| {
            scene.s3.on(any("DeleteObject"), ALWAYS, Fault::s3_error(403, "AccessDenied"));
        })
        .says("published, but outdated objects stay beside it")
        .says("check the bucket's policy"),
        Case::new("deletions break", Outcome::NothingIsDeleted, |scene| {
            scene.s3.on(any("DeleteObject"), ALWAYS, Fault::Reset(Moment::Unsent));
        })
        .says("published, but outdated objects stay beside it")
        .says("the connection failed"),
        Case::new("deletions are answered by a web page", Outcome::NothingIsDeleted, |scene| {
            scene.s3.on(any("DeleteObject"), ALWAYS, web_page());
        })
        .says("published, but outdated objects stay beside it")
        .says("is not S3's, as it is a web page"),
        Case::new("deletions are answered by another server", Outcome::NothingIsDeleted, |scene| {
            scene.s3.on(any("DeleteObject"), ALWAYS, answer(&[], "{\"deleted\":0}"));
        })
        .says("published, but outdated objects stay beside it")
        .says("is not S3's, as it has a body of another kind"),
        Case::new("the bucket is gone", Outcome::NothingIsDeleted, |scene| {
            scene.s3.on(any("DeleteObject"), ALWAYS, Fault::s3_error(404, "NoSuchBucket"));
        })
        .says("NoSuchBucket"),
        Case::new("deletions break, twice", Outcome::Mended, |scene| {
            scene.s3.on(any("DeleteObject"), 2, Fault::Reset(Moment::Unsent));
        }),
        Case::new("a deletion is done and its answer is lost", Outcome::Mended, |scene| {
            scene.s3.on(any("DeleteObject"), 2, Fault::Reset(Moment::Unanswered));
        }),
    ];
    run_all(cases);
}

/// A silent server would hold each deletion for minutes.
#[test]
fn deletions_have_the_time_limit_of_a_target() {
    let scene = Scene::set(Change::Small);
    scene.world.unsync("far/sick", "main");
    scene.world.unsync("far/well", "main");
    scene.world.sync("near/well", "main", "far/other", "main").unwrap();
    pass_with(&scene.world, "MAX_RETIRE", "0").failed();
    scene.s3.on(any("DeleteObject"), ALWAYS, Fault::Hold(Moment::Unsent));
    let mut command = program(&scene.world, &["-run-once"]);
    command.envs(scene.through_proxies()).envs([("TARGET_TIMEOUT", "1s"), ("MAX_RETIRE", "100%")]);
    let run = Daemon::spawn(command).ends_within(Duration::from_secs(20)).failed();
    assert_eq!(run.lines_with("S3 took longer than 1 s to delete outdated objects").len(), 3, "{}", run.log);
    assert_eq!(keys(&scene.world).len(), 4, "{}", run.log);
}

#[test]
fn an_upload_whose_abort_is_refused_again_stays_recorded() {
    let mut scene = Scene::set(Change::Large);
    for operation in ["UploadPart", "AbortMultipartUpload"] {
        scene.s3.on(any(operation), ALWAYS, Fault::s3_error(403, "AccessDenied"));
    }
    let disturbed = |scene: &Scene| -> Run {
        let mut command = program(&scene.world, &["-run-once"]);
        command.envs(scene.through_proxies()).output().unwrap().into()
    };
    disturbed(&scene).failed();
    let first = scene.world.s3().uploads();
    assert_eq!(first.len(), 1);
    disturbed(&scene).failed().logged("recorded=1 aborted=0");
    assert!(scene.world.s3().uploads().contains(&first[0]));
    scene.s3.clear();
    scene.heals();
}
