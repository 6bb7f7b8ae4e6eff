//! The known languages, one line per language; a new one needs no other change.

use super::{FunctionStyle, Language, Quote, Syntax};

use FunctionStyle::{Indented, Keyword, Parenthesised, Script, Unmeasured};

const fn line(mark: &'static str) -> Quote {
    Quote { open: mark, close: mark, escapes: true, multi_line: false }
}

const fn lines(mark: &'static str) -> Quote {
    Quote { open: mark, close: mark, escapes: true, multi_line: true }
}

const fn raw(open: &'static str, close: &'static str) -> Quote {
    Quote { open, close, escapes: false, multi_line: true }
}

const PLAIN: Syntax = Syntax {
    line_comments: &[],
    spaced_comments: false,
    block_comments: &[],
    nested_comments: false,
    quotes: &[],
    lifetimes: false,
    prose: false,
    functions: Unmeasured,
};

const PROSE: Syntax = Syntax { prose: true, ..PLAIN };

const C: Syntax = Syntax {
    line_comments: &["//"],
    block_comments: &[("/*", "*/")],
    quotes: &[line("\""), line("'")],
    functions: Parenthesised,
    ..PLAIN
};

const CPP: Syntax = Syntax { quotes: &[raw("R\"(", ")\""), line("\""), line("'")], ..C };

const TEXT_BLOCKS: Syntax = Syntax { quotes: &[lines("\"\"\""), line("\""), line("'")], ..C };

const SCRIPT: Syntax =
    Syntax { quotes: &[lines("`"), line("\""), line("'")], functions: Script, ..C };

const GO: Syntax =
    Syntax { quotes: &[raw("`", "`"), line("\""), line("'")], functions: Keyword("func"), ..C };

const RUST: Syntax = Syntax {
    nested_comments: true,
    quotes: &[
        raw("r###\"", "\"###"),
        raw("r##\"", "\"##"),
        raw("r#\"", "\"#"),
        raw("r\"", "\""),
        lines("\""),
        line("'"),
    ],
    lifetimes: true,
    functions: Keyword("fn"),
    ..C
};

const KOTLIN: Syntax = Syntax { functions: Keyword("fun"), ..TEXT_BLOCKS };

const SWIFT: Syntax = Syntax {
    nested_comments: true,
    quotes: &[lines("\"\"\""), line("\"")],
    functions: Keyword("func"),
    ..C
};

const SCALA: Syntax = Syntax { functions: Keyword("def"), ..TEXT_BLOCKS };

const PHP: Syntax = Syntax {
    line_comments: &["//", "#"],
    quotes: &[lines("\""), lines("'")],
    functions: Keyword("function"),
    ..C
};

const CSS: Syntax = Syntax { functions: Unmeasured, line_comments: &[], ..C };

const SCSS: Syntax = Syntax { functions: Unmeasured, ..C };

const PROTO: Syntax = Syntax { functions: Unmeasured, ..C };

const HASH: Syntax = Syntax { line_comments: &["#"], spaced_comments: true, ..PLAIN };

const TOML: Syntax = Syntax {
    line_comments: &["#"],
    quotes: &[lines("\"\"\""), raw("'''", "'''"), line("\""), line("'")],
    ..PLAIN
};

const PYTHON: Syntax = Syntax {
    line_comments: &["#"],
    quotes: &[lines("\"\"\""), lines("'''"), line("\""), line("'")],
    functions: Indented,
    ..PLAIN
};

const SHELL: Syntax = Syntax { quotes: &[lines("\""), raw("'", "'")], ..HASH };

const RUBY: Syntax =
    Syntax { block_comments: &[("=begin", "=end")], quotes: &[lines("\""), lines("'")], ..HASH };

/// Functions are not measured: here-documents, which are common, unbalance the braces.
const PERL: Syntax = Syntax {
    block_comments: &[("=pod", "=cut"), ("=head", "=cut")],
    quotes: &[line("\""), line("'")],
    ..HASH
};

const SQL: Syntax = Syntax {
    line_comments: &["--"],
    block_comments: &[("/*", "*/")],
    quotes: &[raw("'", "'")],
    ..PLAIN
};

const LUA: Syntax = Syntax {
    line_comments: &["--"],
    block_comments: &[("--[[", "]]")],
    quotes: &[raw("[[", "]]"), line("\""), line("'")],
    ..PLAIN
};

const HASKELL: Syntax = Syntax {
    line_comments: &["--"],
    block_comments: &[("{-", "-}")],
    nested_comments: true,
    quotes: &[line("\"")],
    ..PLAIN
};

const LISP: Syntax = Syntax {
    line_comments: &[";"],
    block_comments: &[("#|", "|#")],
    nested_comments: true,
    quotes: &[lines("\"")],
    ..PLAIN
};

const ASSEMBLY: Syntax = Syntax {
    line_comments: &["//", ";", "#", "@"],
    spaced_comments: true,
    block_comments: &[("/*", "*/")],
    ..PLAIN
};

const ERLANG: Syntax = Syntax { line_comments: &["%"], quotes: &[lines("\"")], ..PLAIN };

const TEX: Syntax = Syntax { line_comments: &["%"], ..PLAIN };

const ML: Syntax = Syntax {
    block_comments: &[("(*", "*)")],
    nested_comments: true,
    quotes: &[lines("\"")],
    ..PLAIN
};

const FSHARP: Syntax = Syntax { line_comments: &["//"], ..ML };

const MARKUP: Syntax = Syntax { block_comments: &[("<!--", "-->")], ..PLAIN };

const INI: Syntax = Syntax { line_comments: &["#", ";"], spaced_comments: true, ..PLAIN };

const POWERSHELL: Syntax = Syntax {
    block_comments: &[("<#", "#>")],
    quotes: &[lines("\""), raw("'", "'")],
    functions: Keyword("function"),
    ..HASH
};

const BATCH: Syntax = Syntax { line_comments: &["REM ", "rem ", "@REM ", "@rem ", "::"], ..HASH };

const ZIG: Syntax = Syntax { block_comments: &[], functions: Keyword("fn"), ..C };

const NIX: Syntax = Syntax {
    line_comments: &["#"],
    block_comments: &[("/*", "*/")],
    quotes: &[raw("''", "''"), lines("\"")],
    ..PLAIN
};

const TERRAFORM: Syntax = Syntax {
    line_comments: &["#", "//"],
    block_comments: &[("/*", "*/")],
    quotes: &[line("\"")],
    ..PLAIN
};

const fn by_extension(
    name: &'static str,
    extensions: &'static [&'static str],
    syntax: Syntax,
) -> Language {
    Language { name, extensions, file_names: &[], interpreters: &[], syntax }
}

const fn by_file_name(
    name: &'static str,
    extensions: &'static [&'static str],
    file_names: &'static [&'static str],
    syntax: Syntax,
) -> Language {
    Language { name, extensions, file_names, interpreters: &[], syntax }
}

const fn by_interpreter(
    name: &'static str,
    extensions: &'static [&'static str],
    interpreters: &'static [&'static str],
    syntax: Syntax,
) -> Language {
    Language { name, extensions, file_names: &[], interpreters, syntax }
}

/// Unknown languages.
pub(super) static OTHER: Language = by_extension("Other", &[], PLAIN);

/// Known languages.
pub(super) static LANGUAGES: &[Language] = &[
    by_extension("AsciiDoc", &["adoc", "asciidoc"], PROSE),
    by_extension("Assembly", &["s", "asm", "nasm"], ASSEMBLY),
    by_extension("Batch", &["bat", "cmd"], BATCH),
    by_extension("C", &["c", "ec"], C),
    by_extension("C Header", &["h"], C),
    by_extension("C#", &["cs", "csx"], TEXT_BLOCKS),
    by_extension("C++", &["cc", "cpp", "cxx", "c++", "ino"], CPP),
    by_extension("C++ Header", &["hh", "hpp", "hxx", "inl", "ipp"], CPP),
    by_extension("CSS", &["css"], CSS),
    by_extension("CSV", &["csv", "tsv"], PLAIN),
    by_extension("Clojure", &["clj", "cljs", "cljc", "edn"], LISP),
    by_file_name("CMake", &["cmake"], &["cmakelists.txt"], HASH),
    by_extension("CUDA", &["cu", "cuh"], CPP),
    by_extension("Dart", &["dart"], TEXT_BLOCKS),
    by_file_name("Dockerfile", &["dockerfile"], &["dockerfile", "containerfile"], HASH),
    by_file_name("dotenv", &["env"], &[".env.local", ".env.example"], HASH),
    by_interpreter("Elixir", &["ex", "exs"], &["elixir"], HASH),
    by_extension("Emacs Lisp", &["el"], LISP),
    by_interpreter("Erlang", &["erl", "hrl"], &["escript"], ERLANG),
    by_extension("F#", &["fs", "fsi", "fsx"], FSHARP),
    by_extension("GLSL", &["glsl", "vert", "frag", "wgsl", "hlsl"], C),
    by_extension("Go", &["go"], GO),
    by_file_name("Go Module", &["mod"], &[], PROTO),
    by_extension("GraphQL", &["graphql", "gql"], HASH),
    by_interpreter("Groovy", &["groovy", "gradle"], &["groovy"], TEXT_BLOCKS),
    by_extension("HTML", &["html", "htm", "xhtml"], MARKUP),
    by_interpreter("Haskell", &["hs"], &["runhaskell"], HASKELL),
    by_file_name(
        "Ignore list",
        &["gitignore", "gitattributes"],
        &[".dockerignore", ".npmignore", "codeowners"],
        HASH,
    ),
    by_file_name("INI", &["ini", "cfg", "conf", "properties"], &[".editorconfig"], INI),
    by_file_name("JSON", &["json", "jsonl", "ipynb"], &[".cargo_vcs_info.json"], PLAIN),
    by_extension("Java", &["java"], TEXT_BLOCKS),
    by_interpreter("JavaScript", &["js", "mjs", "cjs", "jsx"], &["node", "deno", "bun"], SCRIPT),
    by_interpreter("Julia", &["jl"], &["julia"], PYTHON_STRINGS),
    by_extension("Kotlin", &["kt", "kts"], KOTLIN),
    by_interpreter("Lua", &["lua"], &["lua", "luajit"], LUA),
    by_file_name("Makefile", &["mk", "mak"], &["makefile", "gnumakefile", "justfile"], HASH),
    by_extension("Markdown", &["md", "markdown", "mdx"], PROSE),
    by_extension("Nix", &["nix"], NIX),
    by_extension("OCaml", &["ml", "mli"], ML),
    by_extension("Objective-C", &["m", "mm"], C),
    by_interpreter("PHP", &["php"], &["php"], PHP),
    by_interpreter("Perl", &["pl", "pm"], &["perl"], PERL),
    by_interpreter("PowerShell", &["ps1", "psm1", "psd1"], &["pwsh"], POWERSHELL),
    by_extension("Protocol Buffers", &["proto"], PROTO),
    by_interpreter("Python", &["py", "pyi", "pyw"], &["python"], PYTHON),
    by_interpreter("R", &["r"], &["rscript", "Rscript"], PYTHON_STRINGS),
    by_interpreter("Ruby", &["rb", "rake", "gemspec"], &["ruby"], RUBY),
    by_extension("ReStructuredText", &["rst"], PROSE),
    by_extension("Rust", &["rs"], RUST),
    by_extension("SCSS", &["scss", "sass", "less"], SCSS),
    by_extension("SQL", &["sql"], SQL),
    by_extension("SVG", &["svg"], MARKUP),
    by_extension("Scala", &["scala", "sc", "sbt"], SCALA),
    by_interpreter("Shell", &["sh", "bash", "zsh", "ksh"], &["sh", "bash", "zsh", "ksh"], SHELL),
    by_extension("Svelte", &["svelte"], MARKUP),
    by_interpreter("Swift", &["swift"], &["swift"], SWIFT),
    by_file_name("TOML", &["toml"], &["cargo.lock", "poetry.lock", "uv.lock"], TOML),
    by_extension("TeX", &["tex", "sty", "bib"], TEX),
    by_extension("Terraform", &["tf", "tfvars", "hcl"], TERRAFORM),
    by_extension("Text", &["txt", "text", "log"], PROSE),
    by_interpreter("TypeScript", &["ts", "mts", "cts", "tsx"], &["ts-node", "tsx"], SCRIPT),
    by_extension("Vue", &["vue"], MARKUP),
    by_extension("XML", &["xml", "xsd", "xsl", "plist", "csproj"], MARKUP),
    by_file_name("YAML", &["yaml", "yml"], &[".clang-format"], HASH),
    by_extension("Zig", &["zig"], ZIG),
];

const PYTHON_STRINGS: Syntax = Syntax { functions: Unmeasured, ..PYTHON };
