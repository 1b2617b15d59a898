//! The client against a small HTTP server, which answers as a test wants.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const CONTENT: &[u8] = b"0123456789";
const TAG: &str = "ETag: \"1\"\r\n";

/// Starts a server that closes each connection after an answer. Returns the URL of its file.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x/a%20b.iso", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let request = head(&mut client);
            let _ = client.write_all(answer(&request).as_bytes());
        }
    });
    Place::parse(&url).unwrap()
}

fn head(client: &mut TcpStream) -> String {
    let (mut head, mut byte) = (String::new(), [0]);
    while !head.ends_with("\r\n\r\n") && client.read(&mut byte).is_ok_and(|len| len > 0) {
        head.push(byte[0].into());
    }
    head.to_lowercase()
}

/// Returns the answer of a server that sends parts of the content.
fn part(request: &str, fields: &str) -> String {
    let range = request.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let part = std::str::from_utf8(&CONTENT[first..=last]).unwrap();
    let (len, all) = (part.len(), CONTENT.len());
    format!(
        "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: {len}\r\n\
         Content-Range: bytes {first}-{last}/{all}\r\n{fields}\r\n{part}"
    )
}

fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

fn unreachable(error: FetchError) -> String {
    match error {
        FetchError::Unreachable(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Returns the error of looking for an object at a server with this answer.
fn not_found_by(answer: impl Fn(&str) -> String + Send + 'static) -> FetchError {
    Client::start().unwrap().list(&serve(answer)).unwrap_err()
}

fn object(place: &Place) -> Object {
    Object { url: place.to_string(), size: 10, etag: "\"1\"".into() }
}

#[test]
fn object_is_found_and_fetched() {
    let place = serve(|request| {
        assert!(request.starts_with("get /x/a%20b.iso http/1.1"), "{request}");
        part(request, TAG)
    });
    let client = Client::start().unwrap();
    assert_eq!(client.list(&place), Ok(vec![object(&place)]));
    assert_eq!(client.fetch(&object(&place), 2..6).as_deref(), Ok(&b"2345"[..]));
    client.pause();
    assert_eq!(unreachable(client.fetch(&object(&place), 0..1).unwrap_err()), "its client is not running");
    client.go_on().unwrap();
    assert_eq!(client.fetch(&object(&place), 9..10).as_deref(), Ok(&b"9"[..]));
}

#[test]
fn replaced_object_is_not_fetched() {
    let fetched = |answer: fn(&str) -> String| {
        let place = serve(answer);
        Client::start().unwrap().fetch(&object(&place), 0..1)
    };
    let refused = fetched(|request| {
        assert!(request.contains("\r\nif-match: \"1\"\r\n"), "{request}");
        status("412 Precondition Failed")
    });
    assert_eq!(refused, Err(FetchError::Replaced));
    // A server that does not know the condition.
    assert_eq!(fetched(|request| part(request, "ETag: \"2\"\r\n")), Err(FetchError::Replaced));
    assert_eq!(fetched(|request| part(request, TAG).replace("/10", "/11")), Err(FetchError::Replaced));
    assert_eq!(fetched(|_| status("404 Not Found")), Err(FetchError::NotFound));
}

#[test]
fn server_that_cannot_serve_an_image_is_refused() {
    let why = |answer: fn(&str) -> String| unreachable(not_found_by(answer));
    assert!(why(|request| part(request, "")).starts_with("its server tells no entity tag"));
    assert!(
        why(|request| part(request, "ETag: W/\"1\"\r\n")).starts_with("its server tells a weak entity tag")
    );
    let whole = why(|_| format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n{TAG}\r\n0"));
    assert!(whole.starts_with("its server does not send parts of files"), "{whole}");
    let refused = not_found_by(|_| status("403 Forbidden"));
    assert_eq!(refused, FetchError::Refused("it answers with status 403".into()));
}

#[test]
fn body_of_another_length_is_refused() {
    let fetched = |answer: fn(&str) -> String| {
        let place = serve(answer);
        Client::start().unwrap().fetch(&object(&place), 0..4)
    };
    let another = || Err(FetchError::Unreachable("the answer has another length than asked for".into()));
    let longer = fetched(|request| part(request, TAG).replace("Length: 4", "Length: 9") + "45678");
    assert_eq!(longer, another());
    let shorter = fetched(|request| part(request, TAG).replace("Length: 4", "Length: 3"));
    assert_eq!(shorter, another());
    // What is missing of a body that was cut off is asked for.
    let cut = fetched(|request| part(request, TAG).replace("0123", "01"));
    assert_eq!(cut.as_deref(), Ok(&b"0123"[..]));
}

#[test]
fn request_is_repeated_a_few_times() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let place = serve(move |request| match counted.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => status("503 Slow Down"),
        2 => part(request, TAG),
        _ => status("503 Slow Down"),
    });
    let client = Client::start().unwrap();
    assert_eq!(client.fetch(&object(&place), 0..1).as_deref(), Ok(&b"0"[..]));
    let error = unreachable(client.fetch(&object(&place), 0..1).unwrap_err());
    assert_eq!((error.as_str(), asked.load(Ordering::Relaxed)), ("it answers with status 503", 6));
}

#[test]
fn server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.iso", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::start().unwrap().list(&Place::parse(&url).unwrap()).unwrap_err();
    assert_eq!(unreachable(error), "no connection: Connection refused (os error 111)");
}

#[test]
fn request_is_possible_in_any_thread() {
    let place = serve(|request| part(request, TAG));
    let client = Client::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fetched = runtime.block_on(async { client.fetch(&object(&place), 0..2) });
    assert_eq!(fetched.as_deref(), Ok(&b"01"[..]));
}
