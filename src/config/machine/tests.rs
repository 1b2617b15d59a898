use crate::boot::menu::{CopyToRam, Start};
use crate::boot::{Architecture, Client, Quirk, Rules};
use crate::bootable::Root;
use crate::config::tests::{loaded, wrong};

/// Loads the rules of a DHCP server's configuration file.
fn rules(file: &str) -> Rules {
    loaded(&["arch.iso", "--dhcp-range", "10.0.0.10-10.0.0.20"], Some(file)).unwrap().rules
}

#[test]
fn rule_takes_every_setting() {
    let rules = rules(
        "[[machine]]\n\
         mac = '52-54-00-12-34-56'\n\
         name = 'lab1'\n\
         image = 'two'\n\
         root = 'nfs'\n\
         copytoram = 'no'\n\
         kernel-parameters = ['quiet', 'console=ttyS0']\n\
         menu = false\n\
         address = '10.0.0.5'\n\
         quirks = 'no-script'\n",
    );
    let client = Client { mac: "52:54:00:12:34:56".parse().ok(), ..Client::default() };
    let rule = rules.find(&client).unwrap();
    assert_eq!(rule.image.as_ref().map(|name| name.as_str()), Some("two"));
    assert_eq!((rule.overrides.root, rule.overrides.copytoram), (Some(Root::Nfs), Some(CopyToRam::No)));
    assert_eq!((rule.overrides.parameters.len(), rule.start), (2, Start::Straight));
    assert_eq!((rule.address, rule.quirks.has(Quirk::NoScript)), ("10.0.0.5".parse().ok(), true));
    assert!(!rule.is_ignored);
    let names: Vec<_> = rules.names().map(|(mac, name)| format!("{mac} {}", name.as_str())).collect();
    assert_eq!(names, ["52:54:00:12:34:56 lab1"]);
}

#[test]
fn conditions_select_machines() {
    let rules = rules(
        "[[machine]]\nmac = ['52:54:00', '00:11']\narchitecture = 'uefi'\nmenu = false\n\
         [[machine]]\narchitecture = ['bios', 11]\nignore = true\n\
         [[machine]]\nvendor = 'HTTPClient'\nroot = 'http'\n",
    );
    let ignored = |architecture| {
        let architecture = Some(Architecture(architecture));
        rules.find(&Client { architecture, ..Client::default() }).is_some_and(|rule| rule.is_ignored)
    };
    assert_eq!([0, 11, 7].map(ignored), [true, true, false]);
    for architecture in [Architecture::UEFI, Architecture::EBC, Architecture::UEFI_HTTP] {
        let mac = "00:11:22:33:44:55".parse().ok();
        let client = Client { mac, architecture: Some(architecture), ..Client::default() };
        assert_eq!(rules.find(&client).map(|rule| rule.start), Some(Start::Straight));
    }
    let client = Client { vendor_class: b"HTTPClient:Arch:00016", ..Client::default() };
    assert_eq!(rules.find(&client).and_then(|rule| rule.overrides.root), Some(Root::Http));
}

#[test]
fn rule_error_has_place_and_cause() {
    let first = "[[machine]]\nmac = '52:54'\nmenu = false\n";
    for (rule, why) in [
        ("menu = false", "isowire.toml:5: menu: this [[machine]] matches no machine; add `mac`"),
        ("", "an empty [[machine]] matches no machine; add `mac`"),
        ("mac = '00:11'", "isowire.toml:5: mac: this [[machine]] changes nothing"),
        ("mac = '00:11'\nignore = false", "isowire.toml:5: mac: this [[machine]] changes nothing"),
        (
            "mac = '00:11'\nignore = true\nroot = 'nbd'",
            "isowire.toml:7: root: `nbd`: has no effect on ignored machines",
        ),
        (
            "mac = '52:54'\nmenu = false",
            "is never reached: the rule at isowire.toml:2: mac matches the same machines",
        ),
        ("mac = '52:54:00:12:34:56'\nmenu = false", "is never reached"),
        (
            "mac = '00:11'\nroot = 'http'\ncopytoram = 'no'",
            "isowire.toml:7: copytoram: `no`: conflicts with `root = http`",
        ),
        ("mac = '00:11'\nroot = 'ftp'", "isowire.toml:6: root: `ftp`: invalid root; expected"),
        ("mac = '00:11'\naddress = '10.0.0.5'", "`10.0.0.5`: needs a rule for one machine"),
        ("mac = '00:11'\nname = 'lab1'", "isowire.toml:6: name: `lab1`: needs a rule for one machine"),
        ("mac = '00:11'\nvendor = 'PXE'\nonce = true", "needs a rule by `mac` alone"),
        ("mac = '00:11:22:33:44:55'\nname = '-lab'", "`-lab`: invalid host name; expected up to"),
        ("mac = '00:11:22:33:44:55'\naddress = '10.0.0.5'", "`10.0.0.5`: needs a DHCP server"),
        ("mac = '01:11:22:33:44:55'\nmenu = false", "`01:11:22:33:44:55`: invalid MAC address"),
        ("architecture = 'arm'\nmenu = false", "`arm`: invalid architecture; expected `bios`"),
        ("vendor = ''\nmenu = false", "``: invalid vendor class"),
        (
            "mac = '00:11'\nquirks = ['odd']",
            "isowire.toml:6: quirks: `odd`: invalid quirk; expected `plain`, `no-43`, `answer-request` or `no-script`",
        ),
        ("mac = '00:11'\nimage = 'a b'", "`a b`: invalid image name"),
        ("mac = '00:11'\nkernel-parameters = ['a b']", "`a b`: invalid kernel parameter"),
        ("mac = '00:11'\nmack = 1", "isowire.toml:6: mack: unknown key in [[machine]]; did you mean `mac`?"),
        ("mac = '00:11'\nmac = '00:12'", "isowire.toml:6: duplicate key"),
    ] {
        let said = wrong(&format!("{first}[[machine]]\n{rule}\n"));
        assert!(said.contains(why), "{rule:?}: {said}");
    }
}

#[test]
fn address_is_given_once() {
    let one = |mac, address| format!("[[machine]]\nmac = '52:54:00:00:00:0{mac}'\naddress = '{address}'\n");
    let load = |second: String| {
        let file = one(1, "10.0.0.5") + &second;
        loaded(&["arch.iso", "--dhcp-range", "10.0.0.10-10.0.0.20"], Some(&file))
    };
    assert!(load(one(2, "10.0.0.6")).is_ok());
    let why = load(one(2, "10.0.0.5")).unwrap_err();
    assert_eq!(why, "isowire.toml:6: address: `10.0.0.5`: address of another machine; give each its own");
}

#[test]
fn name_is_given_once() {
    let one = |mac, name| format!("[[machine]]\nmac = '52:54:00:00:00:0{mac}'\nname = '{name}'\n");
    assert_eq!(rules(&(one(1, "lab1") + &one(2, "lab2"))).names().count(), 2);
    let why = wrong(&(one(1, "lab1") + &one(2, "lab1")));
    assert_eq!(why, "isowire.toml:6: name: `lab1`: name of another machine; give each its own");
}

#[test]
fn parameters_fit_one_command_line() {
    let long = |n| format!("kernel-parameters = ['{}']\n", "x".repeat(n));
    let file = |n| format!("{}[[machine]]\nmac = '00:11'\n{}", long(300), long(n));
    assert!(loaded(&["arch.iso"], Some(&file(298))).is_ok());
    assert!(wrong(&file(299)).contains("isowire.toml:4: kernel-parameters"));
}
