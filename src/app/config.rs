//! The configuration: one table of settings makes the parser, the check with "did you mean", and the commented default file. A mistake
//! costs that one setting and is told; everything else holds.

use std::path::PathBuf;

use super::command::COMMANDS;
use super::key::Key;

/// How many colours to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colors {
    /// What the terminal can do.
    #[default]
    Auto,
    /// None.
    Never,
    /// The terminal's own 16.
    Ansi,
    /// 256.
    Many,
    /// All.
    True,
}

/// Which characters to draw with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Glyphs {
    /// As the locale allows.
    #[default]
    Auto,
    /// Box drawing, blocks, signs.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// The theme that goes by the terminal's background.
pub const AUTO: &str = "auto";

/// What a person chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Opened when none are named.
    pub roots: Vec<PathBuf>,
    /// Name of a theme, or a theme's file.
    pub theme: String,
    /// Colours.
    pub colors: Colors,
    /// Characters.
    pub glyphs: Glyphs,
    /// Take the mouse.
    pub mouse: bool,
    /// Write nothing.
    pub read_only: bool,
    /// Seconds between looks at locks and folders.
    pub watch: u64,
    /// Tell of long jobs that ended while the terminal was not looked at.
    pub notify: bool,
    /// Other keys for commands, by their ids.
    pub keys: Vec<(String, Vec<Key>)>,
    /// Profiles for sanitising.
    pub profiles: Vec<OwnProfile>,
}

/// A person's own set of sanitise operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnProfile {
    /// Its name.
    pub name: String,
    /// Operations to do besides the default ones.
    pub enable: Vec<String>,
    /// Default ones to leave out.
    pub disable: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            roots: Vec::new(),
            theme: AUTO.into(),
            colors: Colors::Auto,
            glyphs: Glyphs::Auto,
            mouse: true,
            read_only: false,
            watch: 3,
            notify: true,
            keys: Vec::new(),
            profiles: Vec::new(),
        }
    }
}

/// A row of the table of settings.
struct Setting {
    key: &'static str,
    /// As it stands in the default file.
    default: &'static str,
    doc: &'static str,
    set: fn(&mut Config, &toml::Value) -> Result<(), String>,
}

const SETTINGS: &[Setting] = &[
    Setting {
        key: "roots",
        default: "[]",
        doc: "Folders to open when none are named on the command line; ~ is your home.",
        set: |c, v| {
            let list = v.as_array().ok_or("a list of folders is wanted")?;
            c.roots = list.iter().map(|v| v.as_str().map(PathBuf::from).ok_or("a folder is text")).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Setting {
        key: "theme",
        default: "\"auto\"",
        doc: "\"auto\" (\"paper\" on a light background, else \"terminal\"), \"terminal\" (the terminal's own colours), \"dusk\", \"paper\", or the path of a theme file.",
        set: |c, v| {
            c.theme = v.as_str().ok_or("a name is wanted")?.to_string();
            Ok(())
        },
    },
    Setting {
        key: "colors",
        default: "\"auto\"",
        doc: "\"auto\", \"never\", \"16\", \"256\", or \"truecolor\".",
        set: |c, v| {
            let known = [
                ("auto", Colors::Auto),
                ("never", Colors::Never),
                ("16", Colors::Ansi),
                ("256", Colors::Many),
                ("truecolor", Colors::True),
            ];
            c.colors = one_of(v, &known)?;
            Ok(())
        },
    },
    Setting {
        key: "glyphs",
        default: "\"auto\"",
        doc: "\"auto\" (as the locale allows), \"unicode\", or \"ascii\".",
        set: |c, v| {
            c.glyphs = one_of(v, &[("auto", Glyphs::Auto), ("unicode", Glyphs::Unicode), ("ascii", Glyphs::Ascii)])?;
            Ok(())
        },
    },
    Setting {
        key: "mouse",
        default: "true",
        doc: "Take the mouse: click, wheel, double click. Shift-drag always stays the terminal's own.",
        set: |c, v| yes_or_no(v).map(|b| c.mouse = b),
    },
    Setting {
        key: "read-only",
        default: "false",
        doc: "Write nothing, not even converted copies.",
        set: |c, v| yes_or_no(v).map(|b| c.read_only = b),
    },
    Setting {
        key: "watch",
        default: "3",
        doc: "Seconds between looks at locks and folders while they are shown, 1 to 3600.",
        set: |c, v| {
            c.watch = v
                .as_integer()
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| (1..=3600).contains(n))
                .ok_or("1 to 3600 is wanted")?;
            Ok(())
        },
    },
    Setting {
        key: "notify",
        default: "true",
        doc: "Desktop notification when a long job ends while the terminal is not looked at.",
        set: |c, v| yes_or_no(v).map(|b| c.notify = b),
    },
];

fn yes_or_no(v: &toml::Value) -> Result<bool, String> {
    v.as_bool().ok_or_else(|| "true or false is wanted".to_string())
}

fn one_of<T: Copy>(v: &toml::Value, known: &[(&str, T)]) -> Result<T, String> {
    let text = v.as_str().ok_or("text in quotes is wanted")?;
    known.iter().find(|(name, _)| *name == text).map(|(_, t)| *t).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(n, _)| *n).collect();
        format!("'{text}' is none of {}{}", names.join(", "), did_you_mean(text, &names))
    })
}

impl Config {
    /// Reads a configuration; with it what is wrong in it, a sentence each.
    pub fn parse(text: &str) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut wrong = Vec::new();
        let table = match text.parse::<toml::Table>() {
            Ok(t) => t,
            Err(e) => return (config, vec![format!("it is not TOML: {}", e.message())]),
        };
        for (key, value) in &table {
            if key == "keys" {
                match value.as_table() {
                    Some(keys) => keys.iter().for_each(|(id, v)| match own_keys(id, v) {
                        Ok(keys) => config.keys.push((id.clone(), keys)),
                        Err(why) => wrong.push(format!("keys.{id}: {why}")),
                    }),
                    None => wrong.push("keys: a table is wanted".into()),
                }
                continue;
            }
            if key == "sanitize" {
                for (name, v) in value.as_table().into_iter().flatten() {
                    match own_profile(name, v) {
                        Ok(profile) => config.profiles.push(profile),
                        Err(why) => wrong.push(format!("sanitize.{name}: {why}")),
                    }
                }
                continue;
            }
            match SETTINGS.iter().find(|s| s.key == key) {
                Some(setting) => {
                    if let Err(why) = (setting.set)(&mut config, value) {
                        wrong.push(format!("{key}: {why}"));
                    }
                }
                None => {
                    let mut names: Vec<_> = SETTINGS.iter().map(|s| s.key).collect();
                    names.extend(["keys", "sanitize"]);
                    wrong.push(format!("there is no setting '{key}'{}", did_you_mean(key, &names)));
                }
            }
        }
        (config, wrong)
    }

    /// The default configuration as a file to edit: every setting and every command's keys, commented out.
    pub fn commented() -> String {
        let mut out = String::from(
            "# cowshed's configuration. Everything here is the default: take the # away to change it.\n# A mistake is told when cowshed starts, and only that setting is left out.\n",
        );
        for s in SETTINGS {
            out.push_str(&format!("\n# {}\n# {} = {}\n", s.doc, s.key, s.default));
        }
        out.push_str("\n# Sets of sanitise operations: a table [sanitize.NAME] with the lists enable and disable. They are profiles then.\n");
        out.push_str("\n# Keys: a command's name, and one key or a list: \"x\", \"ctrl-x\", \"shift-tab\", \"f5\", \"pgdn\", \"space\".\n[keys]\n");
        for c in COMMANDS {
            let keys: Vec<_> = c.keys.iter().map(|k| format!("{k:?}")).collect();
            out.push_str(&format!("# {}\n# \"{}\" = [{}]\n", c.doc, c.id, keys.join(", ")));
        }
        out
    }
}

fn own_profile(name: &str, value: &toml::Value) -> Result<OwnProfile, String> {
    use crate::engine::guest::sanitize::{PROFILES, operations};
    if PROFILES.iter().any(|p| p.name == name) {
        return Err("cowshed has a profile of that name itself; give it another".into());
    }
    let table = value.as_table().ok_or("a table with enable and disable is wanted")?;
    if let Some(odd) = table.keys().find(|k| *k != "enable" && *k != "disable") {
        return Err(format!("there is no '{odd}' in it{}", did_you_mean(odd, &["enable", "disable"])));
    }
    let ids: Vec<&str> = operations::all().map(|o| o.id).collect();
    let list = |key: &str| -> Result<Vec<String>, String> {
        let words = match table.get(key) {
            None => &[][..],
            Some(v) => v.as_array().ok_or_else(|| format!("{key}: a list of operations is wanted"))?.as_slice(),
        };
        words
            .iter()
            .map(|w| {
                let id = w.as_str().ok_or("an operation is text in quotes")?;
                match ids.contains(&id) || id == "*" {
                    true => Ok(id.to_string()),
                    false => Err(format!("there is no operation '{id}'{}", did_you_mean(id, &ids))),
                }
            })
            .collect()
    };
    Ok(OwnProfile { name: name.into(), enable: list("enable")?, disable: list("disable")? })
}

fn own_keys(id: &str, value: &toml::Value) -> Result<Vec<Key>, String> {
    if !COMMANDS.iter().any(|c| c.id == id) {
        let ids: Vec<_> = COMMANDS.iter().map(|c| c.id).collect();
        return Err(format!("there is no such command{}", did_you_mean(id, &ids)));
    }
    let words: Vec<&toml::Value> = match value {
        toml::Value::Array(all) => all.iter().collect(),
        one => vec![one],
    };
    words
        .into_iter()
        .map(|w| {
            let text = w.as_str().ok_or("a key is text in quotes")?;
            Key::parse(text).ok_or_else(|| format!("there is no key '{text}'"))
        })
        .collect()
}

/// `; did you mean 'x'?` for the nearest of `known`, if one is near.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|k| (distance(word, k), k)).min();
    match near {
        Some((d, k)) if d <= word.chars().count().div_ceil(3) => format!("; did you mean '{k}'?"),
        _ => String::new(),
    }
}

/// Insertions, deletions and replacements from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (j, d) in b.iter().enumerate() {
            let up = row.get(j + 1).copied().unwrap_or(usize::MAX - 1);
            left = (corner + usize::from(c != *d)).min(left + 1).min(up + 1);
            corner = up;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_the_default_and_stands_in_assets() {
        let text = Config::commented();
        assert_eq!(Config::parse(&text), (Config::default(), Vec::new()));
        // Also with every comment taken off: the file shows what is true.
        let bare: String = text
            .lines()
            .filter_map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).or((l == "[keys]").then_some(l)))
            .map(|l| format!("{l}\n"))
            .collect();
        let (config, wrong) = Config::parse(&bare);
        assert_eq!((wrong, config.keys.len()), (Vec::new(), COMMANDS.len()));
        assert_eq!(Config { keys: Vec::new(), ..config }, Config::default());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/config.toml");
        if std::env::var_os("COWSHED_BLESS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text, "run the test with COWSHED_BLESS=1 to renew assets/config.toml");
    }

    #[test]
    fn own_profiles_are_read() {
        let (config, wrong) =
            Config::parse("[sanitize.web]\nenable = ['passwords']\ndisable = ['logs']\n[sanitize.bad]\nenable = ['pasword']");
        assert_eq!(wrong, ["sanitize.bad: there is no operation 'pasword'; did you mean 'passwords'?"]);
        let own = OwnProfile { name: "web".into(), enable: vec!["passwords".into()], disable: vec!["logs".into()] };
        assert_eq!(config.profiles, [own]);
    }

    #[test]
    fn mistakes_are_told_and_cost_nothing_else() {
        let (config, wrong) = Config::parse(
            "theem = 'x'\nmouse = 3\nwatch = 10\ncolors = 'trucolor'\n[keys]\n'library.srot' = 'x'\n'quit' = 'hyper-q'",
        );
        assert_eq!(config, Config { watch: 10, ..Config::default() });
        let all = wrong.join("\n");
        for part in [
            "did you mean 'theme'?",
            "mouse: true or false",
            "did you mean 'truecolor'?",
            "did you mean 'library.sort'?",
            "no key 'hyper-q'",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
