//! The messages for users about a driver that does not answer properly.

use super::*;

/// The note about a driver at this address: its code and message.
pub async fn trouble(entry: DriverEntry) -> (&'static str, String) {
    let running = ask(entry);
    for _ in 0..190 {
        let fleet = running.intake.directory.fleet("etl").expect("it is there");
        if let Some(trouble) = fleet.notes.driver_trouble() {
            return (trouble.code, trouble.message);
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing is noted within 1.9 s: {:?}", running.intake.counters.snapshot());
}

/// A fleet `etl` of application `app`, and a poller.
pub fn ask(driver: DriverEntry) -> Running {
    let (intake, signs) = intake();
    let application_id = "app".to_owned();
    let entry = FleetEntry { application_id, driver: Some(driver), ..FleetEntry::default() };
    intake.directory.set_fleet("etl", entry).unwrap();
    let poller = Poller::new(intake.clone(), Duration::from_millis(500));
    Running { intake, signs, task: tokio::spawn(poller.run()) }
}

fn status(line: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn each_wrong_answer_has_its_code_and_remedy() {
    let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html;charset=utf-8\r\nContent-Length: 21\r\n\r\n<!DOCTYPE html>\n<html";
    for (answer, code, parts) in [
        (status("404 Not Found", ""), "NotFound", &["it answered 404", "label spark-app-selector"][..]),
        (status("401 Unauthorized", ""), "Unauthorized", &["401 Unauthorized", "set driver.restTokenFile"]),
        (status("403 Forbidden", ""), "Forbidden", &["403 Forbidden", "spark.ui.filters"]),
        (
            status("302 Found", "Location: https://driver:4440/api\r\n"),
            "Redirect",
            &["redirect to https://driver:4440/api", "set driver.restTls"],
        ),
        (status("302 Found", "Location: /login\r\n"), "Redirect", &["redirect to /login", "a login page"]),
        (status("503 Service Unavailable", ""), "Status", &["503 Service Unavailable", "while it starts"]),
        (status("500 Internal Server Error", ""), "Status", &["500", "the driver's log"]),
        (html.into(), "NotJson", &["text/html;charset=utf-8", "<!DOCTYPE html>\\n<html", "driver.restPort"]),
        (
            ok(b"[{\"id\": 1}]"),
            "WrongContent",
            &["JSON, but not what Spark's /allexecutors answers", "spark.ui.port"],
        ),
        (ok(b"{}"), "WrongContent", &["JSON, but not"]),
        (b"\x15\x03\x03\x00\x02\x02P".to_vec(), "NotHttp", &["not HTTP", "set driver.restTls"]),
        (Vec::new(), "NotHttp", &["or was cut off"]),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let (at, _) = says(answer).await;
        let (said, message) = trouble(entry(at)).await;
        assert_eq!(said, code, "{shown}: {message}");
        let url = format!("http://{at}/api/v1/applications/app/allexecutors: ");
        assert!(message.starts_with(&url), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
}

#[tokio::test]
async fn a_driver_that_is_not_there_is_told_from_one_that_is_silent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, message) = trouble(entry(closed)).await;
    assert_eq!(code, "Refused", "{message}");
    assert!(message.contains(&format!("nothing listens on port {}", closed.port())), "{message}");
    let (silent, _) = driver(|stream, _| async move {
        sleep(Duration::from_secs(5)).await;
        drop(stream);
    })
    .await;
    let (code, message) = trouble(entry(silent)).await;
    assert_eq!(code, "Timeout", "{message}");
    let (code, message) = trouble(DriverEntry { loopback: false, ..entry(silent) }).await;
    assert_eq!(code, "ForbiddenAddress", "{message}");
    assert!(
        message.contains("because it is loopback") && message.contains("driver.allowLoopback"),
        "{message}"
    );
}

/// The first answer ends the trouble; its start is the time of the first failure with the same code.
#[tokio::test]
async fn a_trouble_ends_with_an_answer() {
    let answers = Arc::new(AtomicUsize::new(0));
    let (at, _) = driver(move |mut stream, _| {
        let number = answers.fetch_add(1, Ordering::Relaxed);
        let answer = if number < 3 { status("403 Forbidden", "") } else { ok(b"[]") };
        async move {
            let _ = stream.write_all(&answer).await;
        }
    })
    .await;
    let mut running = ask(entry(at));
    running.counted(Fate::Failed).await;
    let fleet = running.intake.directory.fleet("etl").unwrap();
    let first = fleet.notes.driver_trouble().expect("it was refused");
    assert!(!first.may_be_starting, "a filter does not go away");
    while running.intake.counters.get(Source::Driver, Fate::Failed) < 3 {
        sleep(Duration::from_millis(5)).await;
        if let Some(now) = fleet.notes.driver_trouble() {
            assert_eq!((now.code, now.since), (first.code, first.since));
        }
    }
    running.report().await;
    for _ in 0..100 {
        if fleet.notes.driver_trouble().is_none() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it answered");
}
