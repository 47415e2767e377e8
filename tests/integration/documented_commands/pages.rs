//! The pages, taken apart: fenced blocks with what stands above them, code within sentences, headings and links. Pure but for
//! reading the files.

use std::fs;
use std::path::{Path, PathBuf};

/// A page of the documentation.
pub(crate) struct Page {
    /// From the checkout's root.
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// What stands between single backticks outside of blocks, with its line.
    pub(crate) spans: Vec<(usize, String)>,
    /// Targets of links, with their line.
    pub(crate) links: Vec<(usize, String)>,
    /// What a `#fragment` can name.
    pub(crate) anchors: Vec<String>,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) page: String,
    pub(crate) line: usize,
    /// The first word after the fence.
    pub(crate) language: String,
    /// The second: a name for tests.
    pub(crate) name: String,
    /// The comment right above, which readers do not see.
    pub(crate) marker: Option<String>,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    /// Lines as a shell reads them: joined where they are continued, without comments and empty ones.
    pub(crate) fn command_lines(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines().map(|line| without_comment(line).trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }
}

/// A comment begins at a `#` after a blank, outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, character) in line.char_indices() {
        match (quote, character) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        before = character;
    }
    line
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that tells people what to do.
pub(crate) fn all() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "deploy/README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).expect("docs").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort_unstable();
    paths.iter().map(|path| read(path)).collect()
}

pub(crate) fn read(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    parse(path, &text)
}

fn parse(path: &str, text: &str) -> Page {
    let mut page = Page {
        path: path.to_owned(),
        blocks: Vec::new(),
        spans: Vec::new(),
        links: Vec::new(),
        anchors: Vec::new(),
    };
    let (mut marker, mut open, mut prose) = (None, None::<(Block, usize)>, String::new());
    for (line, number) in text.lines().zip(1..) {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some((block, fence_indent)) = &mut open {
            if trimmed.starts_with("```") {
                page.blocks.extend(open.take().map(|(block, _)| block));
            } else {
                block.text.push_str(line.get((*fence_indent).min(indent)..).unwrap_or_default());
                block.text.push('\n');
            }
            prose.push('\n');
            continue;
        }
        prose.push_str(if trimmed.starts_with("```") { "" } else { line });
        prose.push('\n');
        if let Some(info) = trimmed.strip_prefix("```") {
            let mut words = info.split_whitespace().map(str::to_owned);
            let block = Block {
                page: path.to_owned(),
                line: number,
                language: words.next().unwrap_or_default(),
                name: words.next().unwrap_or_default(),
                marker: marker.take(),
                text: String::new(),
            };
            open = Some((block, indent));
        } else if let Some(comment) = trimmed.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"))
        {
            marker = Some(comment.to_owned());
        } else {
            if !trimmed.is_empty() {
                marker = None;
            }
            if let Some(heading) = trimmed.strip_prefix('#') {
                page.anchors.push(anchor(heading.trim_start_matches('#').trim()));
            }
        }
    }
    assert!(open.is_none(), "{path}: a block is not closed");
    inline(&prose, &mut page);
    page
}

/// As GitHub makes a heading's fragment.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|each| each.is_alphanumeric() || [' ', '-', '_'].contains(each));
    kept.map(|each| if each == ' ' { '-' } else { each }).collect()
}

/// Code and links may be broken over two lines.
fn inline(prose: &str, page: &mut Page) {
    let line_at = |at: usize| prose[..at].matches('\n').count() + 1;
    let (mut at, mut outside) = (0, String::new());
    for (index, part) in prose.split('`').enumerate() {
        if index % 2 == 1 {
            page.spans.push((line_at(at), part.split_whitespace().collect::<Vec<_>>().join(" ")));
            outside.extend(part.chars().map(|each| if each == '\n' { '\n' } else { '_' }));
        } else {
            outside.push_str(part);
        }
        at += part.len() + 1;
    }
    let mut rest = outside.as_str();
    let mut line = 1;
    while let Some((before, after)) = rest.split_once("](") {
        line += before.matches('\n').count();
        let (target, after) = after.split_once(')').unwrap_or((after, ""));
        page.links.push((line, target.to_owned()));
        rest = after;
    }
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# A `title`, so\n\nSay `pgsluice\ncheck` ([here](x.md#a)).\n\n1. One:\n\n   <!-- on the source -->\n   ```sql name\n   SELECT 1;\n     -- in\n   ```\n\n<!-- far -->\nwords\n```sh\na \\\n  b '#c' # d\n```\n";
    let page = parse("p.md", text);
    assert_eq!(page.anchors, ["a-title-so"]);
    assert_eq!(page.spans[1], (3, "pgsluice check".to_owned()));
    assert_eq!(page.links, [(4, "x.md#a".to_owned())]);
    let [sql, sh] = page.blocks.as_slice() else { panic!("{:?}", page.blocks) };
    assert_eq!(
        (sql.language.as_str(), sql.name.as_str(), sql.marker.as_deref()),
        ("sql", "name", Some("on the source"))
    );
    assert_eq!(sql.text, "SELECT 1;\n  -- in\n");
    assert_eq!((sh.marker.as_deref(), sh.command_lines()), (None, vec!["a    b '#c'".to_owned()]));
}
