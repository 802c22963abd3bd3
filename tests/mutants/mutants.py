"""The ways the code is broken, one at a time, and the tests that have to notice.

Each replaces one piece of text that occurs exactly once in its file.
"""

from __future__ import annotations

from dataclasses import dataclass

CONDUCTOR = "services/conductor/src"
AGENT = "common/runtime/src/agent"
DRIVING = ("-p", "kilonova-conductor", "--test", "driving")
CONDUCTOR_UNITS = ("-p", "kilonova-conductor", "--lib")
COMPUTE = ("-p", "kilonova-compute", "--test", "commands")
VOLUME = ("-p", "kilonova-volume", "--test", "commands")
RUNTIME_UNITS = ("-p", "kilonova-runtime", "--lib", "agent::")
STORE = ("-p", "kilonova-store", "--test", "conformance", "at_once")
STORE_UNITS = ("-p", "kilonova-store", "--lib", "etcd::")
REQUEST_IDS = ("-p", "kilonova-tests", "--test", "request_ids", "embedded::")
OPERATIONS = ("-p", "kilonova-tests", "--test", "operations", "embedded::")


def matrix(row: str) -> tuple[str, ...]:
    """Return the rows of the crash matrix whose name has that in it."""
    return (f"KILONOVA_MATRIX_ROW={row}", "-p", "kilonova-tests", "--test", "matrix", "embedded")


@dataclass(frozen=True)
class Mutant:
    """One way to break the code."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "an owner's write is not fenced",
        f"{CONDUCTOR}/records.rs",
        "            txn = txn.when(fence.holds());\n",
        "            let _ = fence;\n",
        DRIVING,
    ),
    Mutant(
        "a record may have changed since it was read",
        f"{CONDUCTOR}/records.rs",
        "txn = txn.when(Compare::ModRevision(key.clone(), read.revision)).put(key, record.encode_to_vec());",
        "let _ = read;\n        txn = txn.put(key, record.encode_to_vec());",
        DRIVING,
    ),
    Mutant(
        "two requests may have the last of a quota",
        f"{CONDUCTOR}/accept/merge.rs",
        "            .when(Compare::ModRevision(key.clone(), self.used_at))\n",
        "",
        DRIVING,
    ),
    Mutant(
        "a quota that was lowered meanwhile does not count",
        f"{CONDUCTOR}/accept/merge.rs",
        "            .when(Compare::ModRevision(keys.quota(project), self.limits_at))\n",
        "",
        DRIVING,
    ),
    Mutant(
        "a quota counts one of the requests accepted together",
        f"{CONDUCTOR}/accept/merge.rs",
        "        now.used = used;\n",
        "        choice.used = used;\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "equal requests may be accepted together",
        f"{CONDUCTOR}/accept/merge.rs",
        "        if ask.request.id.as_ref().is_some_and(|id| !ids.insert(id)) {\n",
        "        if ask.request.id.as_ref().is_some_and(|id| !ids.insert(id) && false) {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a quota refuses by what is only remembered",
        f"{CONDUCTOR}/accept/batch.rs",
        "            if choice.taken.is_empty() && is_read {\n",
        "            if choice.taken.is_empty() {\n",
        DRIVING,
    ),
    Mutant(
        "a quota refuses what was accepted before",
        f"{CONDUCTOR}/accept/batch.rs",
        "                Ok(Some(ids)) => Ok(Accepted::Earlier(ids)),\n"
        "                Ok(None) => Err(refusal),\n",
        "                Ok(_) => Err(refusal),\n",
        DRIVING,
    ),
    Mutant(
        "those that wait together are left waiting when the conductor stops",
        f"{CONDUCTOR}/accept/batch.rs",
        "            self.worker.queues.lock().remove(&self.project);\n",
        "",
        DRIVING,
    ),
    Mutant(
        "a request is not remembered",
        f"{CONDUCTOR}/accept/book.rs",
        "    let Some(id) = &request.id else { return txn };\n",
        "    let Some(id) = request.id.as_ref().filter(|_| false) else { return txn };\n",
        DRIVING,
    ),
    Mutant(
        "that there was nothing to do is not remembered",
        f"{CONDUCTOR}/accept/book.rs",
        "    if request.id.is_none() {\n        return Ok(true);\n",
        "    if resource_ids.len() == 1 {\n        return Ok(true);\n",
        REQUEST_IDS,
    ),
    Mutant(
        "an aggregate's change is not remembered",
        f"{CONDUCTOR}/aggregates.rs",
        "            let txn = as_read.put(key.clone(), new.encode_to_vec());\n"
        "            let txn = acceptor.remember(request, vec![id.to_string()], txn);\n",
        "            let txn = as_read.put(key.clone(), new.encode_to_vec());\n",
        REQUEST_IDS,
    ),
    Mutant(
        "a delete is not remembered",
        f"{CONDUCTOR}/requests.rs",
        "        let with = book::remember(&db.keys, &request, ids(), Txn::new());\n",
        "        let with = Txn::new();\n",
        REQUEST_IDS,
    ),
    Mutant(
        "what another counted of a request's age is counted again",
        f"{CONDUCTOR}/expiry.rs",
        "self.counted.filter(|(at, _)| *at == revision)",
        "self.counted",
        DRIVING,
    ),
    Mutant(
        "a transaction that conflicts is refused for all that waited with it",
        "common/store/src/etcd/group.rs",
        "        Ok(TxnOutcome::Conflict { .. }) => true,\n",
        "        Ok(TxnOutcome::Conflict { .. }) => false,\n",
        STORE,
    ),
    Mutant(
        "a transaction is judged before one that it waited with and depends on",
        "common/store/src/etcd/group.rs",
        "            && !touched.any(|key| self.written.contains(key))\n",
        "            && !touched.any(|_| false)\n",
        STORE_UNITS,
    ),
    Mutant(
        "a transaction that may have been committed is committed again",
        "common/store/src/etcd/group.rs",
        "        Err(error) => !error.is_transient(),\n",
        "        Err(_) => true,\n",
        STORE_UNITS,
    ),
    Mutant(
        "a host that was tried is tried again",
        f"{CONDUCTOR}/placed/mod.rs",
        "            self.tried_hosts.push(place.host.clone());\n",
        "",
        DRIVING,
    ),
    Mutant(
        "a host that may hold something is forgotten",
        f"{CONDUCTOR}/engine/build.rs",
        "            Held::Unknown => {}\n",
        "            Held::Unknown => record.drop_receipt(&site.host, site.attempt),\n",
        DRIVING,
    ),
    Mutant(
        "two placements may both be the last a group allows",
        f"{CONDUCTOR}/groups/mod.rs",
        "txn.when(Compare::ModRevision(key.clone(), change.read)).put(key, change.record.encode_to_vec())",
        "txn.put(key, change.record.encode_to_vec())",
        DRIVING,
    ),
    Mutant(
        "a report of another generation ends an operation",
        f"{CONDUCTOR}/reports.rs",
        " && report.generation == operation.generation",
        "",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an attach that fails keeps its volume",
        f"{CONDUCTOR}/operations.rs",
        "        Kind::AttachVolume => settle(instance, &operation.volume_id, fault.is_none()),\n",
        "        Kind::AttachVolume => settle(instance, &operation.volume_id, true),\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a volume may be promised twice at once",
        f"{CONDUCTOR}/records.rs",
        "        Txn::new().when(Compare::ModRevision(key.clone(), read.revision)).put(key, record",
        "        let _ = Compare::ModRevision(key.clone(), read.revision);\n"
        "        Txn::new().put(key, record",
        OPERATIONS,
    ),
    Mutant(
        "an extend that fails stays on the quota",
        f"{CONDUCTOR}/engine/operate.rs",
        "        let less = quota::difference(&entry.record.usage(), &record.usage());\n",
        "        let less = quota::difference(&record.usage(), &entry.record.usage());\n",
        OPERATIONS,
    ),
    Mutant(
        "a command for an earlier incarnation is taken",
        f"{AGENT}/guard.rs",
        "    if to.epoch != own_epoch.0 {\n",
        "    if to.epoch > own_epoch.0 {\n",
        COMPUTE,
    ),
    Mutant(
        "an operation is done again when it is told again",
        f"{AGENT}/ledger.rs",
        ".filter(|(done, _)| *done == stamp)",
        ".filter(|(done, _)| *done > stamp)",
        COMPUTE,
    ),
    Mutant(
        "an older make is taken",
        f"{AGENT}/ledger.rs",
        "            if (stamp, Verb::Make) < (entry.stamp, entry.verb) {\n",
        "            if false {\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "room is given back before the driver confirms that nothing is left",
        f"{AGENT}/executor.rs",
        "        let watch = Stopwatch::start(W::VERBS.driver_unmake, stamp.attempt);\n",
        "        let watch = Stopwatch::start(W::VERBS.driver_unmake, stamp.attempt);\n"
        "        self.change(|book| book.claims.release(id));\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a late connect undoes a disconnect",
        "services/volume/src/connections.rs",
        "        self.touch(id, stamp)?;\n"
        "        let (this, host) = (self.clone(), host.to_owned());\n"
        "        let connect = async move {\n"
        "            let _serial = this.serial.exclusive(id).await;\n"
        "            let _there = this.presence.volumes.shared(id).await;\n"
        "            this.touch(id, stamp)?;\n"
        "            let exported = this.in_time(this.driver.export(id, &host)).await;\n"
        "            this.touch(id, stamp).and(exported)\n",
        "        let _ = self.touch(id, stamp);\n"
        "        let (this, host) = (self.clone(), host.to_owned());\n"
        "        let connect = async move {\n"
        "            let _serial = this.serial.exclusive(id).await;\n"
        "            let _there = this.presence.volumes.shared(id).await;\n"
        "            this.in_time(this.driver.export(id, &host)).await\n",
        VOLUME,
    ),
    Mutant(
        "a request is acknowledged though the store did not take it",
        f"{CONDUCTOR}/accept/batch.rs",
        "match self.book.db.commit(self.transaction(project, &basis, &choice, waiting)).await {",
        "let taken = Ok::<_, Error>(TxnOutcome::Committed { revision: Revision(1) });\n                "
        "match self.book.db.commit(self.transaction(project, &basis, &choice, waiting)).await.or(taken) {",
        matrix("create one"),
    ),
    Mutant(
        "an agent makes again what it made",
        f"{AGENT}/ledger.rs",
        "                Phase::Settled(outcome @ Outcome::Ready(_), steps) if same => {\n"
        "                    (entry.stamp, entry.verb) = (stamp, Verb::Make);",
        "                Phase::Settled(Outcome::Ready(_), _) if again => {}\n"
        "                Phase::Settled(outcome @ Outcome::Ready(_), steps) if same => {\n"
        "                    (entry.stamp, entry.verb) = (stamp, Verb::Make);",
        matrix("create one"),
    ),
    Mutant(
        "a backend goes on exporting what was detached",
        f"{CONDUCTOR}/agents/instance.rs",
        "        if !attached {\n",
        "        if !attached && attached {\n",
        matrix("detach"),
    ),
    Mutant(
        "the step of an attempt that failed goes on in the history",
        f"{CONDUCTOR}/engine/build.rs",
        "    history::close(record.actions_mut(), building, Some(&fault), now);\n",
        "    let _ = building;\n",
        matrix("the first host fails"),
    ),
    Mutant(
        "a source takes its guest back before the destination is cleared",
        f"{CONDUCTOR}/moves/mod.rs",
        "        Step::HandOver | Step::TakeOver => go_to(record, Step::Clear, until),\n",
        "        Step::HandOver | Step::TakeOver => go_to(record, Step::TakeBack, until),\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "volumes that moved keep their generation",
        f"{CONDUCTOR}/agents/connections.rs",
        'self.backend(decided, volume_id, "disconnect", 1).await?',
        'self.backend(decided, volume_id, "disconnect", 0).await?',
        matrix("a take-over fails"),
    ),
    Mutant(
        "an evacuated instance still belongs to its old host",
        f"{CONDUCTOR}/moves/sites.rs",
        "    let own = record.resource().host.clone();\n",
        "    let own = record.evacuated_from.as_ref().map_or_else(\n"
        "        || record.resource().host.clone(),\n"
        "        |from| from.host.clone(),\n    );\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "what no record knows is removed without a grace",
        f"{AGENT}/orphans.rs",
        "            if !self.options.remove || now.duration_since(since) < self.options.grace {\n",
        "            if !self.options.remove || now.duration_since(since) < Duration::ZERO {\n",
        ("-p", "kilonova-compute", "--test", "commands", "what_no_record"),
    ),
    Mutant(
        "what was made for another generation is taken for what is asked",
        f"{AGENT}/ledger.rs",
        "        stamp == self.stamp || (stamp.generation == self.stamp.generation && !acted)\n",
        "        stamp == self.stamp || !acted || acted\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "what is still being removed is taken for nothing",
        f"{CONDUCTOR}/engine/build.rs",
        "            (CallError::Refused(_), Reason::ClaimRefused | Reason::HostDisabled) => {\n",
        "            (\n                CallError::Refused(_),\n                Reason::ClaimRefused"
        " | Reason::HostDisabled | Reason::StillRemoving"
        " | Reason::OlderGenerationPresent,\n            ) => {\n",
        DRIVING,
    ),
    Mutant(
        "a refused make is forgotten with what was in its way",
        f"{AGENT}/ledger.rs",
        "            refused = old.refused.filter(|(refused, _)| *refused > stamp);\n",
        "            refused = None;\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a disconnect does not wait for the connect before it",
        "services/volume/src/connections.rs",
        "        let disconnect = async move {\n            let _serial = this.serial.exclusive(id).await;\n",
        "        let disconnect = async move {\n",
        VOLUME,
    ),
    Mutant(
        "a snapshot is deleted while a volume is made of it",
        "services/volume/src/snapshots.rs",
        "        let _alone = self.presence.snapshots.exclusive(id).await;\n",
        "",
        VOLUME,
    ),
    Mutant(
        "a host that registers anew takes work before it has compared",
        f"{AGENT}/reconciled.rs",
        "        *self.under.borrow() == Some(*self.epochs.borrow())\n",
        "        self.under.borrow().is_some()\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "an agent starts over the data of another",
        f"{AGENT}/data_dir.rs",
        "        Some(theirs) if theirs == ours => Ok(()),\n",
        "        Some(theirs) if theirs == ours || !theirs.host.is_empty() => Ok(()),\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "what a record wants elsewhere is removed",
        f"{AGENT}/reconcile.rs",
        "            unlisted.remove(id);\n",
        "",
        COMPUTE,
    ),
    Mutant(
        "an agent goes by a store that was set back",
        f"{AGENT}/store_memory.rs",
        "    (another || set_back).then(",
        "    (another || (set_back && another)).then(",
        RUNTIME_UNITS,
    ),
    Mutant(
        "an agent goes by another store that nobody accepted",
        f"{AGENT}/store_memory.rs",
        "    let another = seen.id != remembered.id && !is_in_its_place;\n",
        "    let another = seen.id.is_empty() && !is_in_its_place;\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a store that was set back keeps its identity",
        f"{CONDUCTOR}/identity.rs",
        "        let is_as_far = remembered.revision <= Revision(store.revision);\n",
        "        let is_as_far = true;\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a store that lacks a mark is taken for what it was",
        f"{CONDUCTOR}/identity.rs",
        "                Ok(found.is_some_and(|found| found.value == mark))\n",
        "                Ok(found.is_some_and(|found| found.value == mark) || true)\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an embedded store that was opened though it lost something is the same",
        "common/store/src/embedded/mod.rs",
        "    if accepted {\n",
        "    if accepted && false {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a host is told to remove what it was found to have",
        f"{CONDUCTOR}/placed/mod.rs",
        "there().filter(|receipt| !self.is_to_stay(receipt) && ",
        "there().filter(|receipt| ",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a record does not get to know that a host has it",
        f"{CONDUCTOR}/server/reports.rs",
        "record.note_found(host.as_str(), SystemTime::now()).then_some(record)",
        '{ let _ = (host, SystemTime::now()); record.note_told("").then_some(record) }',
        ("-p", "kilonova-tests", "--test", "dead_hosts", "has_what_no_receipt_tells_of"),
    ),
    Mutant(
        "a host that registers stays fenced",
        "common/rpc/src/registry/claim.rs",
        ".put_leased(key, value, lease).delete(fence)",
        ".put_leased(key, value, lease)",
        ("-p", "kilonova-tests", "--test", "dead_hosts", "was_back_while_no_conductor_ran"),
    ),
    Mutant(
        "conductors drive a store that was set back and not accepted",
        f"{CONDUCTOR}/shards/mod.rs",
        "            () = self.identity.until(false) => Err(Left::NotAccepted),\n",
        "",
        ("-p", "kilonova-tests", "--test", "store_identity"),
    ),
    Mutant(
        "orphans are removed all at once",
        f"{AGENT}/orphans.rs",
        "            room -= 1;\n",
        "",
        RUNTIME_UNITS,
    ),
    Mutant(
        "an older word enables a host again",
        f"{AGENT}/admin.rs",
        "        if revision == 0 || revision >= self.revision {\n",
        "        if revision < u64::MAX {\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a host is told without saying when that was said",
        f"{CONDUCTOR}/hosts/tell.rs",
        "(target_host, target_epoch, revision) = (id.1.to_string(), epoch.0, at.0);\n",
        "(target_host, target_epoch, revision) = (id.1.to_string(), epoch.0, at.0 * 0);\n",
        ("-p", "kilonova-tests", "--test", "aggregates", "embedded::an_older_word"),
    ),
    Mutant(
        "a part of a line is left in the journal",
        f"{AGENT}/simulated/journal.rs",
        "            self.sink.cut(self.length)?;\n",
        "",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a host that is back keeps what was evacuated from it",
        f"{AGENT}/reconcile.rs",
        "        (Standing::Unwanted, _) => Some(Verdict::Unwanted(id, stamp)),\n",
        "        (Standing::Unwanted, _) => None,\n",
        matrix("evacuate"),
    ),
    Mutant(
        "a host is ready before it has removed what is not wanted",
        f"{AGENT}/reconcile.rs",
        "while self.read(|book| unwanted.iter()",
        "while self.read(|book| false && unwanted.iter()",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a host is left because a volume's backend is away",
        f"{CONDUCTOR}/agents/connections.rs",
        "        CallError::NotExecuted(status) => CallError::MaybeExecuted(status),\n",
        "",
        ("-p", "kilonova-tests", "--test", "moves", "embedded::an_evacuation"),
    ),
    Mutant(
        "an evacuation is accepted though the host is back",
        f"{CONDUCTOR}/moves/evacuate.rs",
        "with.when_absent(self.reach.keys().endpoint(ServiceKind::Compute, &host))",
        "{ let _ = host; with }",
        DRIVING,
    ),
    Mutant(
        "what belongs on a host is told from memory as it is",
        f"{CONDUCTOR}/barrier.rs",
        "timeout(PATIENCE, cache.until_seen(revision)).await.is_err()",
        "cache.has_seen(revision) && timeout(PATIENCE, cache.until_seen(revision)).await.is_err()",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a volume is deleted though it has snapshots",
        f"{CONDUCTOR}/server/volumes.rs",
        "    if snapshots > 0 {\n",
        "    if snapshots > 1_000 {\n",
        ("-p", "kilonova-tests", "--test", "snapshots", "embedded::"),
    ),
    Mutant(
        "an audit believes one look",
        f"{CONDUCTOR}/audit/mod.rs",
        "    second.into_iter().filter(|finding| is_usage(finding) "
        "|| seen.contains(&finding.basis())).collect()\n",
        "    let _ = (seen, is_usage);\n    second\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an audit judges usage that changed while it looked",
        f"{CONDUCTOR}/audit/usage.rs",
        "        let differs = used.before == used.after && used.usage != sum;\n",
        "        let differs = used.usage != sum;\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an audit takes a guest for an orphan that a conductor is still to remove",
        f"{CONDUCTOR}/audit/world.rs",
        "receipt.host == host && !record.is_to_stay(receipt)",
        "receipt.host == host && false",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an audit judges a record with an operation under way",
        f"{CONDUCTOR}/audit/world.rs",
        "    leaves || record.is_placing() || record.operation().is_some()\n",
        "    leaves || record.is_placing()\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an audit writes usage that changed since it looked",
        f"{CONDUCTOR}/audit/heal.rs",
        ".when(as_read(key.clone(), *read)).put(key, usage(*sum))",
        ".put({ let _ = read; key }, usage(*sum))",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an audit changes a group though the member's record changed",
        f"{CONDUCTOR}/audit/heal.rs",
        "fence.into_iter().fold(Txn::new(), Txn::when)",
        "fence.into_iter().fold(Txn::new(), |txn, _| txn)",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a build adopts a guest of an older generation",
        f"{AGENT}/ledger.rs",
        "            let same = entry.is_what_was_asked_at(stamp);\n",
        "            let same = entry.is_what_was_asked_at(stamp) || stamp > entry.stamp;\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a host that is still removing is taken for one that holds nothing",
        f"{CONDUCTOR}/engine/build.rs",
        "                self.attempt_failed(id, entry, fence, &cause, Held::Earlier).await\n",
        "                self.attempt_failed(id, entry, fence, &cause, Held::Nothing).await\n",
        DRIVING,
    ),
    Mutant(
        "the next attempt begins before the host that was left has let go",
        f"{CONDUCTOR}/plan.rs",
        "    if view.status.phase == Phase::Building && view.awaits_left_hosts() {\n",
        "    if view.status.phase == Phase::Gone && view.awaits_left_hosts() {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "two guests while a removal is slow",
        f"{CONDUCTOR}/plan.rs",
        "    if view.status.phase == Phase::Building && view.awaits_left_hosts() {\n",
        "    if view.status.phase == Phase::Gone && view.awaits_left_hosts() {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a failed evacuation stays on a host that was told to remove it",
        f"{CONDUCTOR}/moves/mod.rs",
        "from.host.is_empty() || from.told || record.receipts.is_empty()",
        "from.host.is_empty() || record.receipts.is_empty()",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an evacuation is accepted though a third host may run the guest",
        f"{CONDUCTOR}/moves/evacuate.rs",
        "    if let Some(other) = may_run_at(record).into_iter().find(may_run) {\n",
        "    if let Some(other) = may_run_at(record).into_iter().find(|other| may_run(other) && false) {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "connects and disconnects of a volume go on side by side",
        "services/volume/src/connections.rs",
        "        let connect = async move {\n            let _serial = this.serial.exclusive(id).await;\n",
        "        let connect = async move {\n",
        VOLUME,
    ),
    Mutant(
        "a connect that was overtaken while it waited is done",
        "services/volume/src/connections.rs",
        "            this.touch(id, stamp)?;\n            let exported",
        "            let exported",
        VOLUME,
    ),
    Mutant(
        "a revert removes the last good copy",
        f"{CONDUCTOR}/moves/ask.rs",
        "        Ok((record, with.and(self.hosts_there(&entry.record).await?)))\n",
        "        let _ = self.hosts_there(&entry.record).await;\n        Ok((record, with))\n",
        matrix("revert to a host that is gone"),
    ),
    Mutant(
        "a confirm removes the last good copy",
        f"{CONDUCTOR}/moves/ask.rs",
        "        Ok((record, with.and(self.hosts_there(&entry.record).await?)))\n",
        "        let _ = self.hosts_there(&entry.record).await;\n        Ok((record, with))\n",
        matrix("confirm on a host that is gone"),
    ),
    Mutant(
        "what waits for a dead host is in the way of an evacuation",
        f"{CONDUCTOR}/moves/evacuate.rs",
        "    let moves = of(record).is_some_and(|way| way.step() != Step::Prepare);\n",
        "    let moves = !record.operations.is_empty()\n"
        "        || of(record).is_some_and(|way| way.step() != Step::Prepare);\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a move from a dead host is accepted",
        f"{CONDUCTOR}/moves/ask.rs",
        "                self.reach.registered(host, || home_is_gone(host)).await\n",
        "                self.reach.registered(host, || home_is_gone(host)).await.or(Ok(Txn::new()))\n",
        matrix("moves from a dead host"),
    ),
    Mutant(
        "an agent starts over the data of another",
        f"{AGENT}/data_dir.rs",
        "        Some(theirs) if theirs == ours => Ok(()),\n",
        "        Some(theirs) if theirs == ours || theirs.service == ours.service => Ok(()),\n",
        matrix("a host is renamed"),
    ),
    Mutant(
        "another's copy is removed though its own host was not heard to have it",
        f"{CONDUCTOR}/engine/finish.rs",
        "        let keeper = entry.record.keeper(receipt)?;\n",
        "        let keeper = entry.record.keeper(receipt).filter(|_| false)?;\n",
        DRIVING,
    ),
    Mutant(
        "what was found on a host is removed",
        f"{CONDUCTOR}/placed/mod.rs",
        "    receipt.found && wanted == Wanted::Present",
        "    receipt.found && false && wanted == Wanted::Present",
        DRIVING,
    ),
    Mutant(
        "a deleted record goes though a host may have something of it",
        f"{CONDUCTOR}/plan.rs",
        "            _ if kept.is_zero() && !is_held => Decision::Purge,\n",
        "            _ if kept.is_zero() && (!is_held || is_held) => Decision::Purge,\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "orphans are removed though nobody asked for that",
        f"{AGENT}/orphans.rs",
        "            if !self.options.remove || now",
        "            if now",
        RUNTIME_UNITS,
    ),
    Mutant(
        "holders of shards of another history are counted with",
        f"{CONDUCTOR}/shards/holders.rs",
        "        self.by_shard.clear();\n",
        "",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a store that went back and has overtaken what was seen is gone on with",
        f"{CONDUCTOR}/cache.rs",
        "if went_back || revision < state.seen {",
        "if { let _ = went_back; revision < state.seen } {",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a token of another store resumes a watch",
        f"{CONDUCTOR}/watch/token.rs",
        "            Some((_, of)) if of != self.0 =>",
        "            Some((_, of)) if of != self.0 && of.is_empty() =>",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "what a broken move left exported is not ended by what clears it",
        f"{CONDUCTOR}/moves/exports.rs",
        "    if operation.broken || matches!(operation.kind(), Kind::AttachVolume | Kind::DetachVolume) {\n",
        "    if operation.broken || !super::changes_host(operation) {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "an agent does not remember how far the store of a command had come",
        f"{AGENT}/store_memory.rs",
        "        memory.known = Some(told);\n",
        "        let _ = told;\n",
        RUNTIME_UNITS,
    ),
    Mutant(
        "a command is taken without remembering how far its store had come",
        "services/compute/src/server.rs",
        "told_to_make(&command.target_host, command.store_revision, &command.store_mark)",
        'told_to_make(&command.target_host, 0, "")',
        COMPUTE,
    ),
    Mutant(
        "a record stays behind what its host has taken",
        f"{CONDUCTOR}/placed/mod.rs",
        "            *self.generation_mut() += ahead;\n",
        "            *self.generation_mut() += ahead * 0;\n",
        DRIVING,
    ),
    Mutant(
        "a volume stays behind what its backend has taken",
        f"{CONDUCTOR}/agents/connections.rs",
        "        if !record.continue_after(behind.taken) {\n",
        "        if !record.continue_after(0) {\n",
        matrix("the store goes back a little"),
    ),
    Mutant(
        "a write that etcd may have applied counts as not done",
        "common/store/src/etcd/failure.rs",
        "            Code::ResourceExhausted if message == TOO_MANY => Self::NotDone(message),\n",
        "            Code::ResourceExhausted => Self::NotDone(message),\n",
        STORE_UNITS,
    ),
    Mutant(
        "an old token is no reason for a new one",
        "common/store/src/etcd/failure.rs",
        "            Code::InvalidArgument if message == OLD_REVISION => Self::TokenOld(message),\n",
        "",
        STORE_UNITS,
    ),
    Mutant(
        "an acceptance holds for every store that an agent remembers",
        f"{AGENT}/store_memory.rs",
        "seen.accepted && seen.replaced_ids.contains(&remembered.id)",
        "seen.accepted",
        RUNTIME_UNITS,
    ),
    Mutant(
        "what an agent remembers of a later store is not noticed",
        f"{CONDUCTOR}/identity.rs",
        "        if store.origin_id == remembered.origin {\n",
        "        if store.origin_id.is_empty() {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "what is of a later attempt is removed with an earlier one",
        f"{AGENT}/ledger.rs",
        "is_any && stamp.attempt != ANY && stamp.attempt < self.stamp.attempt",
        "is_any && stamp.attempt != ANY && stamp.attempt < self.stamp.attempt && false",
        RUNTIME_UNITS,
    ),
    Mutant(
        "generations count",
        f"{CONDUCTOR}/placed/generation.rs",
        "generation.saturating_add(rand::random_range(1..=STEPS))",
        "generation.saturating_add(u64::from(STEPS > 0))",
        ("-p", "kilonova-tests", "--test", "put_back", "embedded::what_is_asked"),
    ),
    Mutant(
        "a guest is started while a copy that was found may run",
        f"{CONDUCTOR}/power.rs",
        "        found::runs_nowhere_else(record, standing)?;\n",
        "",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a guest moves while a copy that was found may run",
        f"{CONDUCTOR}/moves/ask.rs",
        "        found::runs_nowhere_else(record, standing)?;\n",
        "        let _ = standing;\n",
        ("-p", "kilonova-tests", "--test", "put_back", "embedded::while_a_copy"),
    ),
    Mutant(
        "an audit removes a copy that a record wants elsewhere",
        f"{CONDUCTOR}/audit/guests.rs",
        "entry.filter(|entry| entry.record.is_wanted()) {\n",
        "entry.filter(|entry| !entry.record.is_wanted()) {\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a lost volume is taken for one that is there",
        f"{CONDUCTOR}/audit/attachments.rs",
        "matches!(volume.state(), State::InUse | State::Error) => {",
        "matches!(volume.state(), State::InUse) => {",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a host that looks for itself removes what it keeps for another",
        f"{CONDUCTOR}/placed/mod.rs",
        " && self.keeper(receipt).is_none())",
        ")",
        ("-p", "kilonova-tests", "--test", "dead_hosts", "embedded::a_host_that_is_back_keeps"),
    ),
    Mutant(
        "an error leaves one copy",
        f"{CONDUCTOR}/plan.rs",
        "            Phase::Failed => true,\n",
        "            Phase::Failed => (self.epoch_of)(host).is_none(),\n",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "what a host had made before the store was put back is removed",
        f"{CONDUCTOR}/engine/build.rs",
        "held == Held::Earlier)",
        "held == Held::Earlier && record.was_there())",
        DRIVING,
    ),
    Mutant(
        "what was accepted goes on beside a copy that was found",
        f"{CONDUCTOR}/plan.rs",
        "        _ if view.is_about_to_run_another() =>",
        "        _ if view.is_about_to_run_another() && view.tried > 1_000 =>",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a rebuild is done again after the store was put back",
        f"{CONDUCTOR}/engine/behind.rs",
        "let is_once = record.is_done_once() && ",
        "let is_once = record.is_done_once() && record.tried().len() > 1_000 && ",
        ("-p", "kilonova-tests", "--test", "put_back", "embedded::a_rebuild"),
    ),
    Mutant(
        "a disconnect is sent for a record that has changed since",
        f"{CONDUCTOR}/agents/connections.rs",
        "now.revision != decided.at",
        "now.revision < decided.at",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "a store is driven before hosts have compared",
        f"{CONDUCTOR}/identity.rs",
        "(store.accepted && store.compared)",
        "store.accepted",
        ("-p", "kilonova-tests", "--test", "store_identity", "embedded::nothing_is_driven"),
    ),
    Mutant(
        "hosts that vanished at once are held for ever",
        f"{CONDUCTOR}/hosts/held.rs",
        "|set| !set.held.is_empty()",
        "|set| set.held.len() > 1_000",
        ("-p", "kilonova-tests", "--test", "dead_hosts", "embedded::most_hosts"),
    ),
    Mutant(
        "a lost volume is deleted though an instance has it",
        f"{CONDUCTOR}/server/volumes.rs",
        "record.resource().attachments.first()",
        "record.resource().attachments.get(1)",
        CONDUCTOR_UNITS,
    ),
    Mutant(
        "what has lost something is copied as a backup",
        "common/store/src/embedded/backup.rs",
        "    mark.misses(Some(found)).map_or",
        "    mark.misses(Some(Mark { ..found })).filter(|_| dir.is_file()).map_or",
        ("-p", "kilonova-store", "--test", "embedded", "a_store_that_has_lost"),
    ),
    Mutant(
        "what was given up by an operator's word is kept when its host is back",
        f"{CONDUCTOR}/placed/mod.rs",
        "is_prepared || is_void {",
        "is_prepared || (is_void && false) {",
        ("-p", "kilonova-tests", "--test", "dead_hosts", "embedded::a_destination_that_died"),
    ),
)
