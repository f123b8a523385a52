//! Executes queries over a schema: fields, aliases and fragments.
//! Invariant: a query is checked against the schema before it is answered, whatever the data is.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};
use graphql_parser::query::{
    Definition, Document, FragmentDefinition, OperationDefinition, Selection, SelectionSet, TypeCondition,
};
use graphql_parser::schema::{self, Type, TypeDefinition};
use serde_json::{Map, Value};

/// The most selections within each other; fragments that hold themselves end here.
const MAX_DEPTH: usize = 32;

/// The type that queries start at.
const ROOT: &str = "Query";

/// Each object type's fields, with the names of their types.
pub struct Schema(HashMap<String, HashMap<String, String>>);

impl Schema {
    /// Reads a schema in GraphQL's own language.
    pub fn parse(text: &str) -> Result<Self> {
        let document = graphql_parser::parse_schema::<String>(text)?;
        let types = document.definitions.into_iter().filter_map(|definition| match definition {
            schema::Definition::TypeDefinition(TypeDefinition::Object(object)) => {
                let fields = object.fields.into_iter().map(|field| (field.name, name_of(&field.field_type).to_owned()));
                Some((object.name, fields.collect()))
            }
            _ => None,
        });
        Ok(Self(types.collect()))
    }

    /// What a query selects of `data`. The error is what the server tells its client.
    pub fn execute(&self, query: &str, data: &Value) -> Result<Value> {
        let document: Document<'_, &str> = graphql_parser::parse_query(query)?;
        let mut fragments = HashMap::new();
        let mut operation = None;
        for definition in &document.definitions {
            match definition {
                Definition::Fragment(fragment) => drop(fragments.insert(fragment.name, fragment)),
                Definition::Operation(OperationDefinition::Query(query)) if operation.is_none() => {
                    operation = Some(&query.selection_set);
                }
                Definition::Operation(OperationDefinition::SelectionSet(selected)) if operation.is_none() => {
                    operation = Some(selected);
                }
                Definition::Operation(_) => bail!("only one operation, a query, is supported"),
            }
        }
        let operation = operation.context("there is no operation")?;
        let execution = Execution { schema: self, fragments };
        execution.check(ROOT, operation, &mut HashSet::new(), 0)?;
        Ok(execution.answer(operation, data))
    }
}

/// The named type in lists and non-null types.
fn name_of<'a>(of: &'a Type<'_, String>) -> &'a str {
    match of {
        Type::NamedType(name) => name,
        Type::ListType(inner) | Type::NonNullType(inner) => name_of(inner),
    }
}

struct Execution<'q> {
    schema: &'q Schema,
    fragments: HashMap<&'q str, &'q FragmentDefinition<'q, &'q str>>,
}

impl<'q> Execution<'q> {
    /// Whether the type `on` has what is selected of it. `keys` are the keys that its answer has so far.
    fn check(
        &self,
        on: &str,
        selected: &'q SelectionSet<'q, &'q str>,
        keys: &mut HashSet<&'q str>,
        depth: usize,
    ) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "the query is nested more than {MAX_DEPTH} times");
        let fields = self.schema.0.get(on).with_context(|| format!("type {on:?} has no fields"))?;
        for selection in &selected.items {
            match selection {
                Selection::Field(field) => {
                    let name = field.name;
                    let inner = fields.get(name).with_context(|| format!("unknown field {name:?} on type {on:?}"))?;
                    ensure!(field.arguments.is_empty(), "unknown argument of field {name:?} of type {on:?}");
                    ensure!(field.directives.is_empty(), "directives are not supported");
                    ensure!(keys.insert(field.alias.unwrap_or(name)), "{name:?} twice in an answer is not supported");
                    let is_object = self.schema.0.contains_key(inner);
                    ensure!(
                        is_object != field.selection_set.items.is_empty(),
                        "field {name:?} of type {inner:?} must{} have a selection of subfields",
                        if is_object { "" } else { " not" }
                    );
                    if is_object {
                        self.check(inner, &field.selection_set, &mut HashSet::new(), depth + 1)?;
                    }
                }
                Selection::InlineFragment(fragment) => {
                    if let Some(TypeCondition::On(of)) = &fragment.type_condition {
                        ensure!(*of == on, "a fragment on {of:?} cannot be in {on:?}");
                    }
                    self.check(on, &fragment.selection_set, keys, depth + 1)?;
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name;
                    let fragment = self.fragments.get(name).with_context(|| format!("unknown fragment {name:?}"))?;
                    let TypeCondition::On(of) = &fragment.type_condition;
                    ensure!(*of == on, "fragment {name:?} on {of:?} cannot be in {on:?}");
                    self.check(on, &fragment.selection_set, keys, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&self, selected: &SelectionSet<'q, &'q str>, data: &Value) -> Value {
        match data {
            Value::Array(items) => items.iter().map(|item| self.answer(selected, item)).collect(),
            Value::Object(object) => {
                let mut answer = Map::new();
                self.fill(&mut answer, selected, object);
                Value::Object(answer)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => data.clone(),
        }
    }

    fn fill(&self, answer: &mut Map<String, Value>, selected: &SelectionSet<'q, &'q str>, object: &Map<String, Value>) {
        for selection in &selected.items {
            match selection {
                Selection::Field(field) => {
                    let value = object.get(field.name).unwrap_or(&Value::Null);
                    let key = field.alias.unwrap_or(field.name);
                    answer.insert(key.to_owned(), self.answer(&field.selection_set, value));
                }
                Selection::InlineFragment(fragment) => self.fill(answer, &fragment.selection_set, object),
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.fragments.get(spread.fragment_name) {
                        self.fill(answer, &fragment.selection_set, object);
                    }
                }
            }
        }
    }
}
