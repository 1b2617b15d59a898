use dhcproto::{Decodable, Decoder, v4};

use super::*;
use crate::text::SafeText;

macro_rules! captured {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dhcp/", $name, ".bin"))
    };
}

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// A DISCOVER with these options.
fn packet(options: &[u8]) -> Vec<u8> {
    let mut bytes = Message::discover(7, [2; 6]).emit();
    bytes.truncate(HEADER_LEN + MAGIC.len());
    bytes.extend(options);
    bytes
}

#[test]
fn ipxe_discover_is_parsed() {
    let message = Message::parse(captured!("ipxe-bios-discover")).unwrap();
    assert_eq!(message.kind, MessageType::Discover);
    assert_eq!(message.header.hardware().to_string(), "52:54:00:4c:41:42");
    assert_eq!(message.vendor_class, b"PXEClient:Arch:00000:UNDI:002001");
    assert!(message.has_user_class(b"iPXE"), "raw, without a length");
    assert_eq!(message.architectures, [0]);
    assert_eq!(message.max_size, Some(1472));
    assert_eq!(message.machine_id.len(), 17);
    assert_eq!(message.client_id, [1, 0x52, 0x54, 0, 0x4c, 0x41, 0x42]);
    assert_eq!(message.ipxe_options.len(), 48);
    assert!(!message.header.flags.broadcast());
}

#[test]
fn uuid_is_that_of_smbios() {
    let uuid = |option: &[u8]| {
        let message = Message { machine_id: option.to_vec(), ..Message::discover(7, [2; 6]) };
        message.uuid().map(|uuid| uuid.to_string())
    };
    let smbios =
        [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    let option = [&[0][..], &smbios].concat();
    assert_eq!(uuid(&option).as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
    for other in [&[0; 17][..], &[&[0][..], &[0xff; 16]].concat(), &[1; 17], &option[..16], &[0; 18], &[]] {
        assert_eq!(uuid(other), None, "{other:?}");
    }
}

#[test]
fn ipxe_boot_server_request_is_parsed() {
    let message = Message::parse(captured!("ipxe-bios-4011-request")).unwrap();
    assert_eq!(message.kind, MessageType::Request);
    assert_eq!(message.header.ciaddr, Ipv4Addr::new(192, 168, 77, 90));
    assert_eq!(message.boot_item, Some([0x80, 0, 0, 0]));
    assert_eq!(message.vendor_class, b"PXEClient");
}

#[test]
fn ovmf_messages_are_parsed() {
    let pxe = Message::parse(captured!("ovmf-pxe-discover")).unwrap();
    assert_eq!((pxe.architectures.as_slice(), pxe.user_class.as_slice()), (&[7][..], &[][..]));
    assert!(pxe.header.flags.broadcast());
    let request = Message::parse(captured!("ovmf-pxe-request")).unwrap();
    assert_eq!((request.server, request.requested), (Some(US), Some(Ipv4Addr::new(192, 168, 77, 90))));
    let http = Message::parse(captured!("ovmf-http-discover")).unwrap();
    assert_eq!(http.architectures, [16]);
    assert!(http.vendor_class.starts_with(b"HTTPClient"));
}

#[test]
fn ipconfig_discover_is_parsed() {
    let message = Message::parse(captured!("ipconfig-discover")).unwrap();
    assert_eq!(message.vendor_class, b"Linux ipconfig");
    assert_eq!((message.max_size, message.client_id.len(), message.architectures.len()), (None, 0, 0));
}

#[test]
fn dnsmasq_offer_is_parsed() {
    let offer = Message::parse(captured!("dnsmasq-offer")).unwrap();
    assert_eq!((offer.header.opcode, offer.kind), (Opcode::BootReply, MessageType::Offer));
    assert_eq!((offer.server, offer.header.yiaddr), (Some(US), Ipv4Addr::new(192, 168, 77, 90)));
    let proxy = Message::parse(captured!("dnsmasq-proxy-offer")).unwrap();
    assert!(proxy.header.yiaddr.is_unspecified());
}

#[test]
fn message_is_emitted_as_parsed() {
    for bytes in [
        &captured!("ipxe-bios-discover")[..],
        captured!("ipxe-bios-request"),
        captured!("ipxe-bios-4011-request"),
        captured!("ipxe-efi-discover"),
        captured!("ovmf-pxe-request"),
        captured!("ovmf-http-discover"),
        captured!("ipconfig-discover"),
        captured!("dnsmasq-offer"),
    ] {
        let message = Message::parse(bytes).unwrap();
        let emitted = message.emit();
        assert!(emitted.len() >= 300);
        assert_eq!(Message::parse(&emitted), Ok(message));
    }
}

#[test]
fn user_classes_have_lengths() {
    let message =
        Message::parse(&packet(&[53, 1, 1, 77, 9, 3, b'f', b'o', b'o', 4, b'i', b'P', b'X', b'E'])).unwrap();
    assert!(message.has_user_class(b"iPXE") && message.has_user_class(b"foo"));
    assert!(!message.has_user_class(b"PXE"));
    let broken = Message::parse(&packet(&[53, 1, 1, 77, 5, 4, b'i', b'P', b'X', b'E'])).unwrap();
    assert!(broken.has_user_class(b"iPXE"));
    assert!(!Message::parse(&packet(&[53, 1, 1])).unwrap().has_user_class(b"iPXE"));
}

#[test]
fn several_architectures_are_parsed() {
    let message = Message::parse(&packet(&[53, 1, 1, 93, 4, 0, 7, 0, 9])).unwrap();
    assert_eq!(message.architectures, [7, 9]);
}

#[test]
fn split_option_is_joined() {
    let message = Message::parse(&packet(&[53, 1, 1, 60, 2, b'P', b'X', 60, 1, b'E', 255])).unwrap();
    assert_eq!(message.vendor_class, b"PXE", "RFC 3396");
}

#[test]
fn relay_sub_options_are_parsed() {
    let message = Message::parse(&packet(&[53, 1, 1, 82, 10, 1, 2, 9, 9, 5, 4, 10, 0, 0, 0])).unwrap();
    assert_eq!(message.relay_sub_option(5), Some(&[10, 0, 0, 0][..]));
    assert_eq!(message.relay_sub_option(19), None);
    let with_port = Message::parse(&packet(&[53, 1, 1, 82, 2, 19, 0])).unwrap();
    assert_eq!(with_port.relay_sub_option(19), Some(&[][..]));
}

#[test]
fn malformed_message_has_its_reason() {
    let refused = |options: &[u8]| Message::parse(&packet(options)).unwrap_err();
    assert_eq!(refused(&[]), DhcpParseError::NoMessageType);
    assert_eq!(refused(&[53, 1]), DhcpParseError::Truncated(Truncated));
    assert_eq!(refused(&[53]), DhcpParseError::Truncated(Truncated));
    assert_eq!(refused(&[53, 2, 1, 1]), DhcpParseError::NoMessageType);
    assert_eq!(refused(&[53, 0]), DhcpParseError::NoMessageType);
    assert_eq!(refused(&[53, 1, 1, 60, 3, b'P']), DhcpParseError::Truncated(Truncated));
    assert_eq!(Message::parse(&[1; 239]), Err(DhcpParseError::Truncated(Truncated)));
    assert_eq!(Message::parse(&[1; 300]), Err(DhcpParseError::NoCookie));
    let mut long_hardware = packet(&[53, 1, 1]);
    long_hardware[2] = 17;
    assert_eq!(Message::parse(&long_hardware), Err(DhcpParseError::HardwareLength(17)));
}

#[test]
fn option_of_wrong_length_is_ignored_alone() {
    let parsed = |option: &[u8]| {
        let options = [&[53, 1, 1][..], option, &[60, 9], b"PXEClient"].concat();
        Message::parse(&packet(&options)).unwrap()
    };
    let long = [&[61, 200][..], &[1; 200], &[61, 56], &[1; 56]].concat();
    let without = parsed(&[]);
    assert_eq!(without.vendor_class, b"PXEClient");
    for option in [
        &[50, 3, 1, 1, 1][..],
        &[50, 0],
        &[54, 5, 1, 1, 1, 1, 1],
        &[57, 1, 5],
        &[93, 3, 0, 7, 0],
        &[93, 0],
        &[97, 0],
        &long,
    ] {
        assert_eq!(parsed(option), without, "{option:?}");
    }
}

/// dhcproto's owned decoder asserts on each of these in a debug build.
#[test]
fn malformed_unused_option_is_skipped() {
    for option in
        [&[80, 1, 0][..], &[81, 1, 0], &[94, 1, 0], &[152, 1, 0], &[153, 1, 0], &[154, 1, 0], &[155, 1, 0]]
    {
        let message = Message::parse(&packet(&[&[53, 1, 1], option, &[93, 2, 0, 7, 255]].concat())).unwrap();
        assert_eq!(message.architectures, [7], "option {}", option[0]);
    }
}

/// A reply to a captured DISCOVER, with everything in it.
fn reply(file: &str) -> Reply {
    let request = Message::parse(captured!("ipxe-bios-discover")).unwrap();
    Reply {
        header: Header {
            opcode: Opcode::BootReply,
            yiaddr: Ipv4Addr::new(192, 168, 77, 90),
            siaddr: US,
            ..request.header
        },
        kind: MessageType::Offer,
        options: vec![
            ReplyOption::ServerIdentifier(US),
            ReplyOption::LeaseTime(3600),
            ReplyOption::Netmask(Ipv4Addr::new(255, 255, 255, 0)),
            ReplyOption::Router(US),
            ReplyOption::Dns(vec![US; 2]),
            ReplyOption::BootClass(BootClass::PxeClient),
            ReplyOption::MachineIdentifier(request.machine_id),
            ReplyOption::SkipDiscovery { boot_item: None },
            ReplyOption::BootFile(SafeText::new(file).unwrap()),
            ReplyOption::ConfigFile(SafeText::new("::/menu").unwrap()),
            ReplyOption::NoPxeDhcp,
            ReplyOption::ClientIdentifier(request.client_id),
        ],
        relay_info: vec![1, 2, 3, 4],
        max_size: None,
    }
}

#[test]
fn reply_is_read_by_other_decoder() {
    let bytes = reply("/boot/lpxelinux.0").emit();
    let decoded = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
    let option = |code| decoded.opts().get(code).cloned();
    assert_eq!(decoded.fname(), Some(&b"/boot/lpxelinux.0\0"[..]));
    assert_eq!((decoded.siaddr(), decoded.opcode()), (US, Opcode::BootReply));
    assert_eq!(option(OptionCode::MessageType), Some(v4::DhcpOption::MessageType(MessageType::Offer)));
    assert_eq!(option(OptionCode::Router), Some(v4::DhcpOption::Router(vec![US])));
    assert_eq!(
        option(OptionCode::ClassIdentifier),
        Some(v4::DhcpOption::ClassIdentifier(b"PXEClient".to_vec()))
    );
    assert_eq!(
        option(OptionCode::BootfileName),
        Some(v4::DhcpOption::BootfileName(b"/boot/lpxelinux.0\0".to_vec()))
    );
    assert_eq!(
        option(OptionCode::VendorExtensions),
        Some(v4::DhcpOption::VendorExtensions(vec![6, 1, 8, 255]))
    );
    let unknown =
        |code, bytes: &[u8]| Some(v4::DhcpOption::Unknown(v4::UnknownOption::new(code, bytes.to_vec())));
    assert_eq!(option(OptionCode::Unknown(209)), unknown(OptionCode::Unknown(209), b"::/menu"));
    assert_eq!(option(OptionCode::Unknown(175)), unknown(OptionCode::Unknown(175), &[0xb0, 1, 1]));
}

#[test]
fn message_type_is_first_option_82_last() {
    let bytes = reply("/boot/lpxelinux.0").emit();
    let options = &bytes[HEADER_LEN + MAGIC.len()..];
    assert!(options.starts_with(&[53, 1, 2, 54, 4, 192, 168, 77, 1]));
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    assert!(bytes[..=end].ends_with(&[82, 4, 1, 2, 3, 4, 255]));
}

#[test]
fn chaddr_is_returned_whole() {
    let mut reply = reply("/a");
    reply.header.chaddr = std::array::from_fn(|i| i as u8 + 1);
    assert_eq!(Message::parse(&reply.emit()).unwrap().header.chaddr, reply.header.chaddr);
}

#[test]
fn short_reply_is_padded() {
    let mut reply = reply("/a");
    reply.options.truncate(1);
    assert_eq!(reply.emit().len(), 300);
}

#[test]
fn long_file_name_is_option_only() {
    let fits = reply(&"a".repeat(127)).emit();
    assert_eq!(fits[FILE_OFFSET..HEADER_LEN], [&[b'a'; 127][..], &[0]].concat());
    let long = reply(&"a".repeat(128)).emit();
    assert_eq!(long[FILE_OFFSET..HEADER_LEN], [0; 128]);
    assert!(long.windows(130).any(|window| window[..2] == [67, 129] && window[2..] == [b'a'; 128]));
}

#[test]
fn reply_fits_size_of_client() {
    for max_size in [None, Some(0), Some(576), Some(577), Some(1472), Some(u16::MAX)] {
        let mut reply = reply(&"f".repeat(254));
        reply.relay_info = vec![7; 255];
        *reply.options.last_mut().unwrap() = ReplyOption::ClientIdentifier(vec![9; 255]);
        reply.max_size = max_size;
        let bytes = reply.emit();
        assert!(
            bytes.len() <= usize::from(max_size.unwrap_or(0).max(576)) - 28,
            "{max_size:?}: {}",
            bytes.len()
        );
        let read = Message::parse(&bytes).unwrap();
        assert_eq!((read.server, read.relay_info.len()), (Some(US), 255), "the essential is in");
    }
}
