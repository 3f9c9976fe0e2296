//! What was measured, as text. Names and labels are a contract: README and the rules in `deploy/prometheus` build on them.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, prometheus_text,
        text,
    },
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};
use reaper_ebpf::reap_time::{self, Times};

use super::own::Own;
use crate::{
    kernel::ProgramCost,
    kubernetes,
    names::Names,
    remedy::Remedy,
    report::{Loss, Outcome},
    text::Untrusted,
    watch::{LimitCounts, Measured, OTHER, WorkloadLabels, ZombieCounts},
};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text, 0.0.4.
    Prometheus,
}

impl Form {
    /// The media type by which a client says that it understands the first.
    pub(super) const OPEN_METRICS: &str = "application/openmetrics-text";

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// All that is shown.
#[derive(Clone, Debug)]
pub(super) struct Scrape {
    pub(super) measured: Arc<Measured>,
    pub(super) own: Own,
    /// Where the cluster is told of zombies.
    pub(super) told: Option<Arc<kubernetes::Counts>>,
}

impl Scrape {
    /// The whole of it.
    pub(super) fn page(self, form: Form) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("reaper");
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        match form {
            Form::OpenMetrics => text::encode(&mut page, &registry)?,
            Form::Prometheus => prometheus_text::encode(&mut page, &registry)?,
        }
        Ok(page)
    }
}

type Label<'a> = (&'static str, Cow<'a, str>);

const NO_LABELS: [Label<'static>; 0] = [];

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter<L: EncodeLabelSet, N: EncodeCounterValue>(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        samples: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            let none: Option<&Exemplar<NoLabelSet, f64>> = None;
            family.encode_family(&labels)?.encode_counter(&value, none)
        })
    }

    fn gauge<L: EncodeLabelSet, N: EncodeGaugeValue>(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        samples: impl IntoIterator<Item = (L, N)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        samples
            .into_iter()
            .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn times<L: EncodeLabelSet>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = (L, u64, Times)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, prompt, times) in samples {
            let slow = (0..)
                .zip(&times.buckets)
                .map(|(bucket, number)| (reap_time::end(bucket).map_or(f64::INFINITY, seconds), *number));
            let buckets: Vec<_> = std::iter::once((seconds(reap_time::PROMPT), prompt)).chain(slow).collect();
            let count = buckets.iter().map(|(_, number)| number).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                seconds(times.sum),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Whole nanoseconds up to 104 days are exact.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.zombies(&mut page)?;
        self.names(&mut page)?;
        self.times(&mut page)?;
        self.remedies(&mut page)?;
        self.limits(&mut page)?;
        self.losses(&mut page)?;
        self.told(&mut page)?;
        self.costs(&mut page)
    }
}

impl Scrape {
    fn zombies(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured { zombies, other_zombies, born, oldest, .. } = &*self.measured;
        let sets: Vec<([Label<'_>; 3], Cow<'_, str>, ZombieCounts)> = zombies
            .iter()
            .map(|(labels, counts)| (labels.of.pairs(), Cow::Borrowed(labels.cause.as_str()), *counts))
            .chain(other_zombies.map(|counts| (WorkloadLabels::others(), Cow::Borrowed(OTHER), counts)))
            .collect();
        let each = |of: fn(&ZombieCounts) -> u64| {
            sets.iter().map(move |(labels, cause, counts)| {
                ((labels.clone(), [("cause", cause.clone())]), of(counts))
            })
        };
        page.gauge(
            ("zombies_standing", None, "Reported zombies that stand"),
            each(|counts| counts.standing),
        )?;
        page.counter(
            ("zombies_reported", None, "Zombies that were reported"),
            each(|counts| counts.reported),
        )?;
        page.counter(
            ("zombies_released", None, "Reported zombies that are gone"),
            each(|counts| counts.released),
        )?;
        page.counter(
            ("zombies_reaped", None, "Reported zombies that went while reaper applied a remedy to them"),
            each(|counts| counts.reaped),
        )?;
        page.counter(
            ("zombies_born", None, "Processes that died; each is a zombie until it is waited for"),
            [(NO_LABELS, *born)],
        )?;
        page.gauge(
            (
                "zombie_oldest_age",
                Some(Unit::Seconds),
                "Age of the oldest reported zombie that stands, 0 without one",
            ),
            [(NO_LABELS, oldest.unwrap_or_default().as_secs_f64())],
        )
    }

    /// To be joined with the others: names come later than what they are names of, and no series is to end for that.
    fn names(&self, page: &mut Page<'_>) -> fmt::Result {
        let each = self.measured.names.iter().map(|(labels, names)| {
            let Names { namespace, pod, container, image, .. } = &**names;
            let value = |text: &Option<Untrusted>| text.as_ref().map_or("", Untrusted::as_str).to_owned();
            let names = [("namespace", namespace), ("pod", pod), ("container", container), ("image", image)]
                .map(|(label, text)| (label, value(text)));
            ((labels.pairs(), names), 1_u32)
        });
        page.gauge(
            ("workload_info", None, "1, with what people call a workload of zombies, once that is known"),
            each,
        )?;
        let requests = self.measured.name_requests.iter().flat_map(|of| {
            [("answered", of.answered), ("wrong", of.wrong), ("failed", of.failed)]
                .map(|(result, number)| ([("runtime", of.of), ("result", result)], number))
        });
        page.counter(
            (
                "name_requests",
                None,
                "Questions to runtimes about names of workloads, by what became of them; wrong: the answer was of no use, or \
                 lacked something",
            ),
            requests,
        )
    }

    fn times(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured {
            times,
            times_by_workload,
            other_times,
            zombies_overflowed,
            times_overflowed,
            limits_overflowed,
            fork_failures_overflowed,
            ..
        } = &*self.measured;
        page.times(
            (
                "time_to_reap",
                "From a process's death until the kernel freed it, of all that died. What was freed within 64 ms counts as 0 in \
                 the sum",
            ),
            [(NO_LABELS, times.prompt, times.slow)],
        )?;
        let others = other_times.iter().map(|times| (WorkloadLabels::others(), 0, *times));
        page.times(
            (
                "workload_time_to_reap",
                "From a process's death until the kernel freed it, of those that were not freed within 64 ms",
            ),
            times_by_workload.iter().map(|(of, times)| (of.pairs(), 0, *times)).chain(others),
        )?;
        page.counter(
            (
                "label_sets_overflowed",
                None,
                "What is counted as other, because its metric has as many label sets as [metrics] label_sets allows",
            ),
            [
                ("zombies", zombies_overflowed),
                ("workload_time_to_reap", times_overflowed),
                ("pids", limits_overflowed),
                ("fork_failures", fork_failures_overflowed),
            ]
                .map(|(metric, number)| ([("metric", metric)], *number)),
        )
    }

    fn remedies(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured { remedies, breakers, .. } = &*self.measured;
        let each = Remedy::ALL.into_iter().zip(remedies).flat_map(|(remedy, counts)| {
            Outcome::ALL.into_iter().zip(counts).map(move |(outcome, number)| {
                ([("remedy", remedy.as_str()), ("outcome", outcome.as_str())], *number)
            })
        });
        page.counter(("remedies", None, "Remedies by what came of them"), each)?;
        page.gauge(
            ("breakers_open", None, "Circuit breakers of remedies that are open"),
            [(NO_LABELS, *breakers)],
        )
    }

    fn limits(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured { limits, fork_failures, other_fork_failures, .. } = &*self.measured;
        let each = |of: fn(&LimitCounts) -> Option<u64>| {
            limits.iter().filter_map(move |(labels, counts)| Some((labels.pairs(), of(counts)?)))
        };
        page.gauge(
            ("pids_limit", None, "The limit on processes that is full first, of workloads that have zombies or were refused a fork"),
            each(|counts| counts.limit),
        )?;
        page.gauge(
            ("pids_used", None, "Tasks that count against that limit, zombies included"),
            each(|counts| Some(counts.used)),
        )?;
        page.gauge(
            ("pids_zombies", None, "Zombies that count against that limit"),
            each(|counts| Some(counts.zombies)),
        )?;
        page.gauge(
            (
                "pids_exhaustion",
                Some(Unit::Seconds),
                "Time until that limit is full at the rate at which zombies become more; absent where that cannot be said",
            ),
            limits.iter().filter_map(|(labels, counts)| Some((labels.pairs(), counts.exhaustion?.as_secs_f64()))),
        )?;
        let others = other_fork_failures.iter().map(|count| (WorkloadLabels::others(), *count));
        page.counter(
            (
                "fork_failures",
                None,
                "Forks that were refused by a limit on processes, as far as they were seen",
            ),
            fork_failures.iter().map(|(labels, failed)| (labels.pairs(), failed.count)).chain(others),
        )?;
        page.gauge(
            (
                "fork_failures_zombies_ratio",
                None,
                "Part of what the limit counts that was zombies when forks were last refused; absent where the limit is not known",
            ),
            fork_failures.iter().filter_map(|(labels, failed)| Some((labels.pairs(), failed.zombie_share()?))),
        )
    }

    fn losses(&self, page: &mut Page<'_>) -> fmt::Result {
        let each = Loss::ALL.into_iter().zip(self.measured.losses);
        page.counter(
            ("lost", None, "What happened and could not be recorded; reaper check says what each means"),
            each.map(|(loss, number)| ([("stage", loss.stage()), ("what", loss.as_str())], number)),
        )
    }

    fn told(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(told) = &self.told else { return Ok(()) };
        page.counter(
            (
                "kubernetes_requests",
                None,
                "Requests by which the cluster was told of zombies, by what became of them",
            ),
            [("accepted", told.told()), ("failed", told.failed())]
                .map(|(result, number)| ([("result", result)], number)),
        )?;
        page.counter(
            (
                "kubernetes_zombies_overflowed",
                None,
                "Zombies of pods that there was no room for, and that no Event counts",
            ),
            [(NO_LABELS, told.overflowed())],
        )
    }

    fn costs(&self, page: &mut Page<'_>) -> fmt::Result {
        let Measured { headroom_cost, programs, sweeps, swept, ledger, slots, kernel_memory, .. } =
            &*self.measured;
        let Own { resident, descriptors, threads, cpu, started, dropped } = self.own;
        let program = |of: &ProgramCost| [("program", Cow::Owned(of.program.clone()))];
        page.counter(
            ("program_runs", None, "Runs of BPF programs while kernel.bpf_stats_enabled is set"),
            programs.iter().map(|of| (program(of), of.runs)),
        )?;
        page.counter(
            ("program", Some(Unit::Seconds), "CPU time of these runs"),
            programs.iter().map(|of| (program(of), of.time.as_secs_f64())),
        )?;
        page.counter(("sweeps", None, "Looks through the ledger"), [(NO_LABELS, *sweeps)])?;
        page.counter(
            ("sweep", Some(Unit::Seconds), "Time that they took"),
            [(NO_LABELS, swept.as_secs_f64())],
        )?;
        let (used, files) = headroom_cost;
        page.counter(
            ("headroom_cpu", Some(Unit::Seconds), "CPU time of looking at limits on processes"),
            [(NO_LABELS, used.as_secs_f64())],
        )?;
        page.counter(("headroom_files", None, "Files that were read for that"), [(NO_LABELS, *files)])?;
        page.gauge(
            ("ledger_processes", None, "Processes in the ledger"),
            [("alive", ledger.alive), ("dead", ledger.dead), ("standing", ledger.standing)]
                .map(|(state, number)| ([("state", state)], number)),
        )?;
        page.gauge(("ledger_slots", None, "Slots of the ledger"), [(NO_LABELS, *slots)])?;
        let bytes = Some(Unit::Bytes);
        page.gauge(
            ("kernel_memory", bytes.clone(), "Memory of the kernel side's maps"),
            [(NO_LABELS, *kernel_memory)],
        )?;
        page.gauge(("resident_memory", bytes, "Resident memory of the daemon"), [(NO_LABELS, resident)])?;
        page.gauge(("open_descriptors", None, "Open descriptors of the daemon"), [(NO_LABELS, descriptors)])?;
        page.gauge(("threads", None, "Threads of the daemon"), [(NO_LABELS, threads)])?;
        page.counter(
            ("cpu", Some(Unit::Seconds), "CPU time of the daemon"),
            [(NO_LABELS, cpu.as_secs_f64())],
        )?;
        page.gauge(
            ("start_time", Some(Unit::Seconds), "When the daemon started, since the Unix epoch"),
            [(NO_LABELS, started.as_secs_f64())],
        )?;
        page.counter(
            ("clients_dropped", None, "Connections to this address that gave way to newer ones"),
            [(NO_LABELS, dropped)],
        )?;
        page.gauge(
            ("build_info", None, "1, with the version of the daemon"),
            [([("version", env!("CARGO_PKG_VERSION"))], 1_u32)],
        )
    }
}
