//! Tests of the addresses of places.

use super::*;

#[test]
fn place_is_a_folder_or_an_object() {
    let parsed = |url: &str| {
        let place = Place::parse(url).unwrap();
        (place.to_string(), place.is_folder())
    };
    for (url, text, is_folder) in [
        ("s3://images", "s3://images/", true),
        ("s3://images/", "s3://images/", true),
        ("s3://images/arch/", "s3://images/arch/", true),
        ("s3://im.a-g_es/arch/a b?.iso", "s3://im.a-g_es/arch/a b?.iso", false),
        ("https://host:8443/x/arch%20linux.iso", "https://host:8443/x/arch%20linux.iso", false),
        ("http://[::1]/a.iso", "http://[::1]/a.iso", false),
    ] {
        assert_eq!(parsed(url), (text.to_owned(), is_folder), "{url}");
    }
}

#[test]
fn unusable_url_is_refused() {
    use PlaceError::{Bucket, Credentials, Host, HttpFolder, Key, Query, Scheme};
    for (url, error) in [
        ("arch.iso", Scheme),
        ("ftp://host/a.iso", Scheme),
        ("s3://me:secret@bucket/a.iso", Credentials),
        ("https://me:secret@host/a.iso", Credentials),
        ("https://host/a.iso?X-Amz-Signature=1", Query),
        ("https://host/a.iso#part", Query),
        ("s3://", Bucket),
        ("s3:///a.iso", Bucket),
        ("s3://bu cket/a.iso", Bucket),
        ("s3://bucket//", Key),
        ("s3://bucket/a//b.iso", Key),
        ("s3://bucket/a/../b.iso", Key),
        ("s3://bucket/a\n.iso", Key),
        ("https:///a.iso", Host),
        ("https://host/a b.iso", Host),
        ("https://host", HttpFolder),
        ("https://host/folder/", HttpFolder),
    ] {
        assert_eq!(Place::parse(url), Err(error), "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn secret_of_a_url_is_not_shown() {
    for (url, shown) in [
        ("https://me:a@secret@host/x/a.iso?sig=secret", "https://...@host/x/a.iso?..."),
        ("s3://secret@bucket", "s3://...@bucket"),
        ("https://host/a@b.iso", "https://host/a@b.iso"),
    ] {
        assert_eq!(without_secrets(url), shown);
    }
}

#[test]
fn path_of_this_host_is_no_place() {
    for path in ["arch.iso", "/srv/s3://x", "s3:/bucket/a.iso", "S3"] {
        assert!(!Place::is_url(Path::new(path)) && Place::of(Path::new(path)).is_none(), "{path}");
    }
    assert!(Place::is_url(Path::new("s3://")) && Place::of(Path::new("s3://")).is_none());
}
