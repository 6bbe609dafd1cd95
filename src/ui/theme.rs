//! Colours by role: views name a role, the theme says how it looks, and what the terminal cannot show is brought down to what it can.

use ratatui::style::{Color, Modifier, Style};

use crate::app::config::did_you_mean;

/// How many colours there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Depth {
    /// None: bold, underlined and reversed text only.
    Mono,
    /// The terminal's own 16.
    #[default]
    Ansi,
    /// 256.
    Many,
    /// All.
    True,
}

macro_rules! roles {
    ($($name:ident $id:literal $doc:literal),* $(,)?) => {
        /// What something on the screen is, as far as its colour goes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Role { $(#[doc = $doc] $name),* }
        impl Role {
            /// All roles, with their names in theme files.
            pub const ALL: &[(Role, &'static str)] = &[$((Role::$name, $id)),*];
        }
    };
}

roles! {
    Text "text" "Plain text.",
    Strong "strong" "Names, numbers that matter.",
    Dim "dim" "What is there for completeness.",
    Border "border" "Frames and rules.",
    Focus "focus" "The frame of what has the focus.",
    Title "title" "Titles and headings.",
    Accent "accent" "What can be pressed; what matched.",
    Select "select" "The line under the cursor.",
    SelectDim "select-dim" "The line under the cursor of a pane without the focus.",
    Cursor "cursor" "The cell under the map's cursor.",
    Good "good" "It is well.",
    Warn "warn" "Worth a look.",
    Bad "bad" "It is broken.",
    Live "live" "It runs now.",
    Bar "bar" "The filled part of bars.",
    Data "data" "Stored plainly.",
    Compressed "compressed" "Stored compressed.",
    Zero "zero" "Explicit zeros.",
    Layer0 "layer-0" "The top layer, and every fourth below.",
    Layer1 "layer-1" "The second layer.",
    Layer2 "layer-2" "The third layer.",
    Layer3 "layer-3" "The fourth layer.",
}

/// A style for every role.
#[derive(Debug, Clone)]
pub struct Theme {
    styles: Vec<Style>,
}

/// The themes that come with cowshed.
const BUILT_IN: &[(&str, &str)] = &[
    ("terminal", include_str!("../../assets/themes/terminal.toml")),
    ("dusk", include_str!("../../assets/themes/dusk.toml")),
    ("paper", include_str!("../../assets/themes/paper.toml")),
];

impl Theme {
    /// The style of a role.
    pub fn style(&self, role: Role) -> Style {
        self.styles.get(role as usize).copied().unwrap_or_default()
    }

    /// The theme called `name`, or in the file `name`, brought down to `depth`; with it what is wrong. Roles a theme does not
    /// name look as in `terminal`.
    pub fn load(name: &str, depth: Depth, read: &dyn Fn(&str) -> std::io::Result<String>) -> (Theme, Vec<String>) {
        let mut theme = Theme { styles: vec![Style::default(); Role::ALL.len()] };
        let mut wrong = Vec::new();
        let built_in = |name: &str| BUILT_IN.iter().find(|(n, _)| *n == name).map(|(_, text)| *text);
        theme.apply(built_in("terminal").unwrap_or_default(), &mut wrong);
        if name != "terminal" {
            match (built_in(name), name.contains(['/', '.'])) {
                (Some(text), _) => theme.apply(text, &mut wrong),
                (None, true) => match read(name) {
                    Ok(text) => theme.apply(&text, &mut wrong),
                    Err(e) => wrong.push(format!("theme {name}: {e}")),
                },
                (None, false) => {
                    let names: Vec<_> = BUILT_IN.iter().map(|(n, _)| *n).collect();
                    wrong.push(format!("there is no theme '{name}'{}", did_you_mean(name, &names)));
                }
            }
        }
        for style in &mut theme.styles {
            *style = lower(*style, depth);
        }
        if depth == Depth::Mono {
            theme.monochrome();
        }
        (theme, wrong)
    }

    fn apply(&mut self, text: &str, wrong: &mut Vec<String>) {
        let table = match text.parse::<toml::Table>() {
            Ok(t) => t,
            Err(e) => return wrong.push(format!("the theme is not TOML: {}", e.message())),
        };
        for (name, value) in &table {
            let Some((role, _)) = Role::ALL.iter().find(|(_, id)| id == name) else {
                let names: Vec<_> = Role::ALL.iter().map(|(_, id)| *id).collect();
                wrong.push(format!("the theme has no role '{name}'{}", did_you_mean(name, &names)));
                continue;
            };
            match value.as_str().ok_or("text is wanted").and_then(parse_style) {
                Ok(style) => {
                    if let Some(s) = self.styles.get_mut(*role as usize) {
                        *s = style;
                    }
                }
                Err(why) => wrong.push(format!("theme, {name}: {why}")),
            }
        }
    }

    /// Without colours, what must be told apart is so by weight.
    fn monochrome(&mut self) {
        for (role, _) in Role::ALL {
            let style = match role {
                Role::Select | Role::Cursor => Style::new().add_modifier(Modifier::REVERSED),
                Role::SelectDim => Style::new().add_modifier(Modifier::UNDERLINED),
                Role::Strong | Role::Title | Role::Accent | Role::Focus | Role::Bad => Style::new().add_modifier(Modifier::BOLD),
                Role::Dim | Role::Border => Style::new().add_modifier(Modifier::DIM),
                _ => Style::new(),
            };
            if let Some(s) = self.styles.get_mut(*role as usize) {
                *s = style;
            }
        }
    }
}

/// `[bold] [dim] [underlined] [reversed] FG [on BG]`, colours as names, numbers or `#rrggbb`.
fn parse_style(text: &str) -> Result<Style, &'static str> {
    let mut style = Style::new();
    let mut background = false;
    for word in text.split_whitespace() {
        match word {
            "bold" => style = style.add_modifier(Modifier::BOLD),
            "dim" => style = style.add_modifier(Modifier::DIM),
            "italic" => style = style.add_modifier(Modifier::ITALIC),
            "underlined" => style = style.add_modifier(Modifier::UNDERLINED),
            "reversed" => style = style.add_modifier(Modifier::REVERSED),
            "on" => background = true,
            "default" => {}
            color => {
                let color: Color = color.parse().map_err(|_| "a colour is a name, a number, or #rrggbb")?;
                style = if background { style.bg(color) } else { style.fg(color) };
            }
        }
    }
    Ok(style)
}

fn lower(mut style: Style, depth: Depth) -> Style {
    let one = |c: Color| match (c, depth) {
        (_, Depth::Mono) => Color::Reset,
        (Color::Rgb(r, g, b), Depth::Many) => Color::Indexed(nearest_of_256(r, g, b)),
        (Color::Rgb(r, g, b), Depth::Ansi) => nearest_of_16(r, g, b),
        (Color::Indexed(n), Depth::Ansi) if n >= 16 => {
            let (r, g, b) = rgb_of(n);
            nearest_of_16(r, g, b)
        }
        (c, _) => c,
    };
    style.fg = style.fg.map(one);
    style.bg = style.bg.map(one);
    style
}

/// The colour cube and the greys of the 256.
fn rgb_of(n: u8) -> (u8, u8, u8) {
    let step = |i: u8| if i == 0 { 0 } else { 55 + 40 * i };
    match n.checked_sub(16) {
        Some(n) if n < 216 => (step(n / 36), step(n / 6 % 6), step(n % 6)),
        Some(n) => {
            let grey = 8u8.saturating_add((n - 216).saturating_mul(10));
            (grey, grey, grey)
        }
        None => (0, 0, 0),
    }
}

fn far(a: (u8, u8, u8), b: (u8, u8, u8)) -> u32 {
    let d = |x: u8, y: u8| u32::from(x.abs_diff(y)).pow(2);
    // The eye weighs green most and blue least.
    2 * d(a.0, b.0) + 4 * d(a.1, b.1) + d(a.2, b.2)
}

fn nearest_of_256(r: u8, g: u8, b: u8) -> u8 {
    (16..=255).min_by_key(|n| far((r, g, b), rgb_of(*n))).unwrap_or(15)
}

fn nearest_of_16(r: u8, g: u8, b: u8) -> Color {
    const ALL: [(Color, (u8, u8, u8)); 16] = [
        (Color::Black, (0, 0, 0)),
        (Color::Red, (205, 0, 0)),
        (Color::Green, (0, 205, 0)),
        (Color::Yellow, (205, 205, 0)),
        (Color::Blue, (0, 0, 238)),
        (Color::Magenta, (205, 0, 205)),
        (Color::Cyan, (0, 205, 205)),
        (Color::Gray, (229, 229, 229)),
        (Color::DarkGray, (127, 127, 127)),
        (Color::LightRed, (255, 0, 0)),
        (Color::LightGreen, (0, 255, 0)),
        (Color::LightYellow, (255, 255, 0)),
        (Color::LightBlue, (92, 92, 255)),
        (Color::LightMagenta, (255, 0, 255)),
        (Color::LightCyan, (0, 255, 255)),
        (Color::White, (255, 255, 255)),
    ];
    ALL.iter().min_by_key(|(_, c)| far((r, g, b), *c)).map_or(Color::Reset, |(c, _)| *c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_file(_: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    #[test]
    fn every_built_in_theme_is_right_at_every_depth() {
        for (name, _) in BUILT_IN {
            for depth in [Depth::Mono, Depth::Ansi, Depth::Many, Depth::True] {
                let (theme, wrong) = Theme::load(name, depth, &no_file);
                assert!(wrong.is_empty(), "{name}: {wrong:?}");
                for (role, id) in Role::ALL {
                    let s = theme.style(*role);
                    let colours = [s.fg, s.bg].into_iter().flatten();
                    for c in colours {
                        match depth {
                            Depth::Mono => panic!("{name} {id} has a colour without colours"),
                            Depth::Ansi => assert!(!matches!(c, Color::Rgb(..) | Color::Indexed(16..)), "{name} {id} {c:?}"),
                            Depth::Many => assert!(!matches!(c, Color::Rgb(..)), "{name} {id} {c:?}"),
                            Depth::True => {}
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn mistakes_are_told() {
        let (_, wrong) = Theme::load("dsuk", Depth::Ansi, &no_file);
        assert_eq!(wrong, ["there is no theme 'dsuk'; did you mean 'dusk'?"]);
        let (_, wrong) = Theme::load("./my.toml", Depth::Ansi, &|_| Ok("acent = 'red'\nbad = 'no-colour'".into()));
        assert!(wrong[0].contains("did you mean 'accent'?") && wrong[1].contains("bad"), "{wrong:?}");
    }

    #[test]
    fn colours_come_down_to_their_like() {
        assert_eq!(nearest_of_16(250, 10, 10), Color::LightRed);
        assert_eq!(nearest_of_256(255, 255, 255), 231);
    }
}
