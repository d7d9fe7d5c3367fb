//! Files that cannot be read, and text of any kind: all is answered.

use proptest::prelude::*;

use super::*;

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let load = |path: &Path| -> Vec<String> {
        let errors = Model::load(path).expect_err("not a configuration");
        errors.iter().map(|error| error.to_string().replace(&directory.path().display().to_string(), "DIR")).collect()
    };
    let missing = directory.path().join("web.toml");
    assert_eq!(load(&missing), ["DIR/web.toml: cannot be read: No such file or directory (os error 2)"]);
    assert_eq!(load(directory.path()), ["DIR: cannot be read: Is a directory (os error 21)"]);
    assert_eq!(load(Path::new("/dev/zero")), ["/dev/zero: cannot be read: more than 256 MiB"]);

    let rows: &[(&str, &[u8], &str)] = &[
        ("the first byte", b"\xff", "1:1: syntax: the byte 0xff is no UTF-8 (allowed: UTF-8 text)"),
        ("after a newline", b"a = 1\n\xc3(", "2:1: syntax: the byte 0xc3 is no UTF-8 (allowed: UTF-8 text)"),
        (
            "after a character of two bytes",
            b"\xc3\xa9 = \"\x80\"",
            "1:6: syntax: the byte 0x80 is no UTF-8 (allowed: UTF-8 text)",
        ),
        ("cut off at the end", b"a = \"\xe2\x82", "1:6: syntax: the byte 0xe2 is no UTF-8 (allowed: UTF-8 text)"),
    ];
    for (what, bytes, expected) in rows {
        std::fs::write(&missing, bytes).expect("a file");
        assert_eq!(load(&missing), [format!("DIR/web.toml:{expected}")], "{what}");
    }
}

/// Whatever is wrong, something is said, on one line, about a place that is there.
fn assert_answered(text: &str) {
    let Err(errors) = Model::parse("web.toml", text) else { return };
    assert!(!errors.is_empty(), "refused without a reason: {text:?}");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut last = (0, 0);
    for error in errors {
        let position = error.position.expect("a position");
        assert!(last <= position, "out of order: {error} in {text:?}");
        last = position;
        let line = text.split('\n').nth(position.0 - 1).unwrap_or_else(|| panic!("no such line: {error} in {text:?}"));
        assert!((1..=line.chars().count() + 1).contains(&position.1), "no such column: {error} in {text:?}");
        assert!(!error.to_string().contains(['\n', '\r']), "more than a line: {error:?}");
        assert!(!error.key.is_empty(), "no key: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        assert_answered(&text);
    }

    /// Text of the pieces that configurations are made of gets further than arbitrary text does.
    #[test]
    fn any_mixture_is_answered(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        assert_answered(&pieces.concat());
    }

    #[test]
    fn any_damage_to_a_good_one_is_answered(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, prop::sample::select(PIECES)), 1..5),
    ) {
        let mut text = include_str!("../../../../tests/fixtures/config/everything.toml").to_owned();
        for (at, length, piece) in damage {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, piece);
        }
        assert_answered(&text);
    }
}

const PIECES: &[&str] = &[
    "[[interface]]\n",
    "[[vip]]\n",
    "[[pool]]\n",
    "[[pool.member]]\n",
    "[node]\n",
    "[dataplane]\n",
    "[pool]\n",
    "[api]\n",
    "name = \"web\"\n",
    "name = \"eth0\"\n",
    "address = \"203.0.113.2\"\n",
    "protocol = \"tcp\"\n",
    "port = 80\n",
    "port = \"any\"\n",
    "pool = \"web\"\n",
    "weight = 70000\n",
    "cores = [1, 2]\n",
    "cores = [",
    "member = [{",
    "node.",
    "vip.",
    "=",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\n",
    "\r\n",
    "\r",
    "#",
    "é",
    "\u{0}",
    "\\",
    "\u{2028}",
    " ",
    "-1",
    "0x",
    "1e5",
    "1979-05-27",
    "true",
    "nan",
    "t",
    "i",
];

#[test]
fn more_vips_or_members_than_ids_are_refused() {
    let vips: String = (0..65_536u32)
        .map(|i| {
            VIP.replace("\"web\"\naddress", &format!("\"v{i}\"\naddress"))
                .replace("80", &i.clamp(1, 65_535).to_string())
        })
        .collect();
    let errors = Model::parse("many.toml", &[INTERFACE, &vips, POOL, MEMBERS].concat()).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().ends_with("65536 VIPs are too many (allowed: 65535)")));

    let member = |i: u32| format!("[[pool.member]]\nname = \"m{i}\"\naddress = \"10.1.{}.{}\"\n", i / 256, i % 256);
    let members: Vec<String> = (0..65_536).map(member).collect();
    let errors = Model::parse("many.toml", &[INTERFACE, VIP, POOL, &members.concat()].concat()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().ends_with("65536 members are too many for a pool (allowed: 65535)"), "{}", errors[0]);
}
