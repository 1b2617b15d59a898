//! Reader of the imports of Rust sources: `use` trees, paths, and paths within macros.

use std::collections::{BTreeMap, BTreeSet};

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, TraitItem, UseTree};

/// A path from the root of a crate: `["crate", "image", "Image"]`, `["std", "fs", "read"]`.
pub type Path = Vec<String>;

/// The modules of a crate by their paths, of which each begins with `crate`.
#[derive(Debug, Default)]
pub struct Modules(BTreeMap<Path, Module>);

#[derive(Debug, Default)]
struct Module {
    /// The module that the file is, where this one lies within a file.
    file: Path,
    /// Paths as they are written, and those of `use` trees.
    written: Vec<Path>,
    /// Modules and types whose names were all imported: `use PATH::*`.
    globs: Vec<Path>,
    /// Names that `use` declares, and what each stands for.
    names: BTreeMap<String, Path>,
}

impl Modules {
    /// Adds the source of a module, without what is compiled for tests only.
    pub fn add(&mut self, module: Path, source: &str) {
        let file = syn::parse_file(source).expect("Rust that the compiler accepts");
        let mut reader = Reader { modules: self, file: module.clone(), module };
        reader.here();
        reader.visit_file(&file);
    }

    /// Returns the paths of all modules.
    pub fn names(&self) -> impl Iterator<Item = &Path> {
        self.0.keys()
    }

    /// Returns every path that a file uses, from the root of its crate: as it is written, and as
    /// each re-export on the way to the item has it. A path to everything in a module ends with
    /// `*`.
    pub fn used_by(&self, file: &[String]) -> BTreeSet<Path> {
        let modules = self.0.iter().filter(|(_, module)| module.file == file);
        let used = modules.flat_map(|(path, module)| {
            let written = module.written.iter().map(|written| self.absolute(path, written));
            let globs = module.globs.iter().flat_map(|glob| self.behind_glob(self.absolute(path, glob)));
            written.chain(globs).collect::<Vec<_>>()
        });
        used.flat_map(|path| self.trail(path)).collect()
    }

    /// Finds groups of children of `parent` that use each other in a circle.
    pub fn cycles(&self, parent: &[String]) -> BTreeSet<Vec<String>> {
        let mut uses: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for module in self.names() {
            let Some(user) = child(parent, module) else { continue };
            let used = self.used_by(module).into_iter().map(|path| self.module_of(&path).to_vec());
            let used = used.filter_map(|module| child(parent, &module).map(str::to_owned));
            uses.entry(user).or_default().extend(used.filter(|used| used != user));
        }
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            uses.keys().map(|&user| (user, reach(&uses, user))).collect();
        let circle = |user: &&str| {
            let back = |other: &&&str| reached.get(**other).is_some_and(|others| others.contains(user));
            reached[user].iter().filter(back).map(|&name| name.to_owned()).collect::<Vec<_>>()
        };
        uses.keys().map(circle).filter(|circle| circle.len() > 1).collect()
    }

    /// Returns the longest part of a path of this crate that is a module.
    pub fn module_of<'a>(&self, path: &'a [String]) -> &'a [String] {
        let lengths = (0..=path.len()).rev();
        lengths.map(|len| &path[..len]).find(|part| self.0.contains_key(*part)).unwrap_or_default()
    }

    fn absolute(&self, module: &[String], written: &[String]) -> Path {
        let (first, rest) = written.split_first().expect("a path has a part");
        let mut base = match first.as_str() {
            "" => return rest.to_vec(), // `::std::fs`
            "crate" => vec![first.clone()],
            "self" => module.to_vec(),
            "super" => module[..module.len() - 1].to_vec(),
            _ => self.named(module, first).unwrap_or_else(|| vec![first.clone()]),
        };
        let ups = rest.iter().take_while(|part| *part == "super").count();
        base.truncate(base.len().saturating_sub(ups));
        base.extend_from_slice(&rest[ups..]);
        base
    }

    /// Resolves a name at the beginning of a path in `module`; `None` if it names another crate.
    fn named(&self, module: &[String], name: &str) -> Option<Path> {
        let child = [module, &[name.to_owned()]].concat();
        if self.0.contains_key(&child) {
            return Some(child);
        }
        let Module { names, globs, .. } = &self.0[module];
        // `use bytes::bytes` begins with the crate.
        if let Some(path) = names.get(name).filter(|path| path[0] != name) {
            return Some(self.absolute(module, path));
        }
        // The names that `use serde::*` imports are unknown here.
        let ours = globs.iter().filter(|path| ["crate", "self", "super"].contains(&&*path[0]));
        let ours = ours.map(|path| [self.absolute(module, path), vec![name.to_owned()]].concat());
        ours.into_iter().find(|path| self.declares(path))
    }

    fn declares(&self, path: &[String]) -> bool {
        let (name, module) = path.split_last().expect("a path has a part");
        self.0.contains_key(path) || self.0.get(module).is_some_and(|module| module.names.contains_key(name))
    }

    /// Returns the path to everything in a module, and to each name that it re-exports.
    fn behind_glob(&self, path: Path) -> Vec<Path> {
        let names = self.0.get(&path).into_iter().flat_map(|module| module.names.keys().cloned());
        let all = std::iter::once("*".to_owned()).chain(names);
        all.map(|name| [&path[..], &[name]].concat()).collect()
    }

    /// Returns a path, and its form behind each re-export.
    fn trail(&self, path: Path) -> Vec<Path> {
        let mut trail = vec![path];
        while let Some(path) = trail.last().and_then(|path| self.re_exported(path)) {
            if trail.contains(&path) {
                break;
            }
            trail.push(path);
        }
        trail
    }

    fn re_exported(&self, path: &[String]) -> Option<Path> {
        let module = self.module_of(path).to_vec();
        let (name, rest) = path[module.len()..].split_first()?;
        let path = self.0.get(&module)?.names.get(name)?;
        Some([self.absolute(&module, path), rest.to_vec()].concat())
    }
}

/// Returns the name of the child of `parent` that contains `module`.
fn child<'a>(parent: &[String], module: &'a [String]) -> Option<&'a str> {
    module.strip_prefix(parent)?.first().map(String::as_str)
}

fn reach<'a>(uses: &'a BTreeMap<&str, BTreeSet<String>>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
    while let Some(user) = todo.pop() {
        let used = uses.get(user).into_iter().flatten().map(String::as_str);
        todo.extend(used.filter(|&used| seen.insert(used)));
    }
    seen
}

/// Collects the paths of one file, and of the modules within it.
struct Reader<'a> {
    modules: &'a mut Modules,
    file: Path,
    module: Path,
}

impl Reader<'_> {
    /// Returns the current module.
    fn here(&mut self) -> &mut Module {
        let module = self.modules.0.entry(self.module.clone()).or_default();
        module.file.clone_from(&self.file);
        module
    }

    fn read_tree(&mut self, prefix: &Path, tree: &UseTree) {
        let join = |name: &syn::Ident| [&prefix[..], &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.read_tree(&join(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_tree(prefix, tree)),
            UseTree::Glob(_) => self.here().globs.push(prefix.clone()),
            UseTree::Name(name) if name.ident == "self" => {
                self.declare(prefix.last().cloned().unwrap_or_default(), prefix.clone());
            }
            UseTree::Name(name) => self.declare(name.ident.to_string(), join(&name.ident)),
            UseTree::Rename(name) if name.ident == "self" => {
                self.declare(name.rename.to_string(), prefix.clone());
            }
            UseTree::Rename(name) => self.declare(name.rename.to_string(), join(&name.ident)),
        }
    }

    fn declare(&mut self, name: String, path: Path) {
        let here = self.here();
        here.written.push(path.clone());
        here.names.insert(name, path);
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'a TraitItem) {
        if !matches!(item, TraitItem::Fn(item) if is_for_tests(&item.attrs)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if item.content.is_none() {
            return;
        }
        self.module.push(item.ident.to_string());
        self.here();
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let root = if item.leading_colon.is_some() { vec![String::new()] } else { Vec::new() };
        self.read_tree(&root, &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string());
        let root = path.leading_colon.as_ref().map(|_| String::new());
        let path_written: Path = root.into_iter().chain(names).collect();
        if path_written.len() > 1 {
            self.here().written.push(path_written);
        }
        visit::visit_path(self, path);
    }

    /// Counts each path among the tokens of a macro, which have no meaning before expansion.
    fn visit_macro(&mut self, macro_: &'a Macro) {
        let text = macro_.tokens.to_string().replace(" :: ", "::").replace("$ ", "$");
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let paths = words.map(|word| word.trim_end_matches(':')).filter(|word| word.contains("::"));
        let paths = paths.map(|word| word.split("::").map(str::to_owned).collect());
        self.here().written.extend(paths);
        visit::visit_macro(self, macro_);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Finds `#[cfg(test)]`. Code under any other condition may be part of the product.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let conditions = attribute.parse_args_with(Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated);
        conditions.is_ok_and(|conditions| conditions.iter().all(|meta| meta.path().is_ident("test")))
    })
}
