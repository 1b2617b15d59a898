//! Content of the type `application/x-www-form-urlencoded` (URL Standard §5.1), which curl's
//! `--data` and cloud-init's `phone_home` send.

use super::target::decode;

/// Iterates over the fields, each with its name and its value. A field with a malformed
/// percent-encoding, or that is not UTF-8, is left out.
pub(crate) fn fields(content: &[u8]) -> impl Iterator<Item = (String, String)> {
    content.split(|&byte| byte == b'&').filter_map(field)
}

fn field(pair: &[u8]) -> Option<(String, String)> {
    let mut parts = pair.splitn(2, |&byte| byte == b'=');
    Some((text(parts.next()?)?, text(parts.next().unwrap_or_default())?))
}

fn text(encoded: &[u8]) -> Option<String> {
    let spaced: Vec<u8> = encoded.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    String::from_utf8(decode(&spaced).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded() {
        let found: Vec<_> =
            fields(b"hostname=lab1&pub_key_rsa=ssh-rsa+AA%2B%3d+root%40a%0A&x&=y&z=a=b").collect();
        let expected = [
            ("hostname", "lab1"),
            ("pub_key_rsa", "ssh-rsa AA+= root@a\n"),
            ("x", ""),
            ("", "y"),
            ("z", "a=b"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(fields(b"a=%zz&b=%ff&c=%4&d=1").collect::<Vec<_>>(), [("d".to_owned(), "1".to_owned())]);
    }
}
