//! The tables `[[rule]]`: how they are written, and what is refused although each value for itself is right.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;
use toml::Spanned;

use super::{
    span::Span,
    written::{Ago, Any, Share, Word},
};
use crate::{
    policy::{Match, Pattern, Rule, Step},
    remedy::Remedy,
    text::Untrusted,
    workload::Kind,
    zombie::Cause,
};

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRule {
    name: Option<Spanned<String>>,
    #[serde(default, rename = "match")]
    when: WrittenMatch,
    steps: Spanned<Vec<WrittenStep>>,
    parent_may_miss_status: Option<Spanned<bool>>,
    allow_interrupted_wait: Option<Spanned<bool>>,
    may_end_container: Option<Spanned<bool>>,
    per_minute: Option<Spanned<u32>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenMatch {
    kind: Option<Spanned<Any<Word<Kind>>>>,
    pod: Option<Spanned<Any<Pattern>>>,
    container: Option<Spanned<Any<Pattern>>>,
    unit: Option<Spanned<Any<Pattern>>>,
    cgroup: Option<Spanned<Any<Pattern>>>,
    cause: Option<Spanned<Any<Word<Cause>>>>,
    executable: Option<Spanned<Any<Pattern>>>,
    uid: Option<Spanned<Any<u32>>>,
    age: Option<Spanned<Ago>>,
    namespace: Option<Spanned<Any<Pattern>>>,
    labels: Option<Spanned<BTreeMap<String, Any<Pattern>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    remedy: Spanned<Word<Remedy>>,
    after: Spanned<Ago>,
    headroom_below: Option<Spanned<Share>>,
}

/// What is wrong with a rule, and where in the file.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// The rules, checked.
pub(super) fn check(written: &[Spanned<WrittenRule>]) -> Result<Vec<Rule>, Fault> {
    let mut rules: Vec<Rule> = Vec::new();
    for (place, rule) in written.iter().enumerate() {
        let checked = rule.get_ref().check(place + 1)?;
        if let Some(twice) = rules.iter().position(|rule| rule.name == checked.name) {
            let span = rule.get_ref().name.as_ref().map_or(rule.span(), Spanned::span);
            return fault(span, format!("rule[{}] has this name already", twice + 1));
        }
        rules.push(checked);
    }
    Ok(rules)
}

fn fault<T>(span: Range<usize>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { span, message: message.into() })
}

/// The causes that `reap` may be applied to where the rule names them and accepts that a status may be missed.
const BY_CONSENT: [Cause; 3] = [Cause::Inherited, Cause::NeverWaited, Cause::Unknown];

impl WrittenRule {
    fn check(&self, place: usize) -> Result<Rule, Fault> {
        let Self {
            name,
            when,
            steps,
            parent_may_miss_status,
            allow_interrupted_wait,
            may_end_container,
            per_minute,
        } = self;
        let name = match name {
            Some(name) if name.get_ref().is_empty() || name.get_ref().len() > 64 => {
                return fault(name.span(), "write a name of 1 to 64 bytes");
            }
            Some(name) => name.get_ref().as_str().into(),
            None => format!("rule[{place}]").as_str().into(),
        };
        if let Some(number) = per_minute.as_ref().filter(|number| *number.get_ref() == 0) {
            return fault(
                number.span(),
                "0 is out of range: write a whole number from 1 on, or leave the rule out",
            );
        }
        if let Some(labels) = when.labels.as_ref().filter(|labels| labels.get_ref().is_empty()) {
            return fault(
                labels.span(),
                "write a label, such as { app = \"shop\" }, or leave the key out to fit all",
            );
        }
        let rule = Rule {
            name,
            when: when.plain(),
            steps: check_steps(steps)?,
            parent_may_miss_status: is_set(parent_may_miss_status.as_ref()),
            allow_interrupted_wait: is_set(allow_interrupted_wait.as_ref()),
            may_end_container: is_set(may_end_container.as_ref()),
            per_minute: per_minute.as_ref().map(|number| *number.get_ref()),
        };
        self.check_reap(&rule)?;
        self.check_flags(&rule)?;
        if let Some(span) = self.span_of(Remedy::TerminateHolder)
            && rule.when.names_nobody()
        {
            return fault(
                span,
                "terminate-holder needs a match that names somebody: a pod, container, unit, cgroup, executable, namespace or label \
                 that is more than wildcards",
            );
        }
        if let Some(span) = self.span_of(Remedy::Autoreap) {
            if !rule.when.names_the_program() {
                return fault(
                    span,
                    "autoreap needs a match that names the holder: `executable` with a whole path and no wildcard",
                );
            }
            if rule.steps.iter().any(|step| !matches!(step.remedy, Remedy::Report | Remedy::Autoreap)) {
                return fault(span, "autoreap stands in a rule of its own: beside it only report");
            }
        }
        Ok(rule)
    }

    fn check_reap(&self, rule: &Rule) -> Result<(), Fault> {
        let Some(span) = self.span_of(Remedy::Reap) else {
            return Ok(());
        };
        let causes = self.when.cause.as_ref();
        let at = causes.map_or(span, Spanned::span);
        if let Some(cause) =
            rule.when.causes.iter().find(|cause| **cause != Cause::Adopted && !BY_CONSENT.contains(cause))
        {
            return fault(
                at,
                format!(
                    "zombies that are {} are never reaped: take it out, or the step reap",
                    cause.as_str()
                ),
            );
        }
        if let Some(cause) = rule.when.causes.iter().find(|cause| BY_CONSENT.contains(cause))
            && !rule.parent_may_miss_status
        {
            return fault(
                at,
                format!(
                    "reaping zombies that are {} may take a status that their parent asks for later: write \
                     parent_may_miss_status = true where that is accepted",
                    cause.as_str()
                ),
            );
        }
        Ok(())
    }

    /// A consent that means nobody is a mistake somewhere else.
    fn check_flags(&self, rule: &Rule) -> Result<(), Fault> {
        let reaps = rule.step(Remedy::Reap).is_some();
        if let Some(flag) = set(self.parent_may_miss_status.as_ref()) {
            if !reaps {
                return fault(flag, "is for the remedy reap, which this rule has not");
            }
            if !rule.when.causes.iter().any(|cause| BY_CONSENT.contains(cause)) {
                return fault(
                    flag,
                    "needs a match that names the cause: cause = \"inherited\", \"never-waited\" or \"unknown\"",
                );
            }
        }
        if let Some(flag) = set(self.allow_interrupted_wait.as_ref())
            && !reaps
            && rule.step(Remedy::Autoreap).is_none()
        {
            return fault(flag, "is for the remedies reap and autoreap, of which this rule has none");
        }
        if let Some(flag) = set(self.may_end_container.as_ref())
            && rule.step(Remedy::TerminateHolder).is_none()
        {
            return fault(flag, "is for the remedy terminate-holder, which this rule has not");
        }
        Ok(())
    }

    fn span_of(&self, remedy: Remedy) -> Option<Range<usize>> {
        let step = self.steps.get_ref().iter().find(|step| step.remedy.get_ref().0 == remedy)?;
        Some(step.remedy.span())
    }
}

fn check_steps(steps: &Spanned<Vec<WrittenStep>>) -> Result<Vec<Step>, Fault> {
    let mut checked: Vec<Step> = Vec::new();
    for WrittenStep { remedy, after, headroom_below } in steps.get_ref() {
        if let Some(below) = headroom_below.as_ref().filter(|_| remedy.get_ref().0 == Remedy::Report) {
            return fault(below.span(), "is for a remedy: that zombies are reported is not brought forward");
        }
        let step = Step {
            remedy: remedy.get_ref().0,
            after: after.get_ref().0,
            headroom_below: headroom_below.as_ref().map(|below| below.get_ref().0),
        };
        if let Some(last) = checked.last() {
            if step.remedy <= last.remedy {
                return fault(
                    remedy.span(),
                    format!(
                        "{} stands behind {}: write each remedy once, the weakest first (report, nudge, reap, \
                         terminate-holder)",
                        step.remedy, last.remedy
                    ),
                );
            }
            if step.after < last.after {
                return fault(
                    after.span(),
                    format!(
                        "{} comes before the step above it ({}): steps stand in the order of their ages",
                        Span(step.after),
                        Span(last.after)
                    ),
                );
            }
        }
        checked.push(step);
    }
    if checked.is_empty() {
        return fault(steps.span(), "a rule needs a step, such as { remedy = \"report\", after = \"30s\" }");
    }
    Ok(checked)
}

fn is_set(flag: Option<&Spanned<bool>>) -> bool {
    flag.is_some_and(|flag| *flag.get_ref())
}

fn set(flag: Option<&Spanned<bool>>) -> Option<Range<usize>> {
    flag.filter(|flag| *flag.get_ref()).map(Spanned::span)
}

impl WrittenMatch {
    fn plain(&self) -> Match {
        let Self { kind, pod, container, unit, cgroup, cause, executable, uid, age, namespace, labels } =
            self;
        Match {
            kinds: words(kind.as_ref()),
            pods: all(pod.as_ref()),
            containers: all(container.as_ref()),
            units: all(unit.as_ref()),
            cgroups: all(cgroup.as_ref()),
            causes: words(cause.as_ref()),
            executables: all(executable.as_ref()),
            uids: all(uid.as_ref()),
            namespaces: all(namespace.as_ref()),
            labels: labels.as_ref().map(|labels| labels.get_ref()).into_iter().flatten().map(plain).collect(),
            age: age.as_ref().map(|age| age.get_ref().0),
        }
    }
}

fn plain((key, values): (&String, &Any<Pattern>)) -> (Untrusted, Vec<Pattern>) {
    (key.as_str().into(), values.0.clone())
}

fn all<T: Clone>(values: Option<&Spanned<Any<T>>>) -> Vec<T> {
    values.map(|values| values.get_ref().0.clone()).unwrap_or_default()
}

fn words<T: Copy>(values: Option<&Spanned<Any<Word<T>>>>) -> Vec<T> {
    values.map(|values| values.get_ref().0.iter().map(|word| word.0).collect()).unwrap_or_default()
}
