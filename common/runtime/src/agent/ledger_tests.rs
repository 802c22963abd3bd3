//! What the ledger promises, command by command.

use super::*;

type Book = Ledger<u32, &'static str>;

const ID: u32 = 7;

fn at(generation: u64, attempt: u32) -> Stamp {
    Stamp { generation: Generation(generation), attempt: Attempt(attempt) }
}

fn room() -> Result<(), Error> {
    Ok(())
}

fn no_claim() -> Result<(), Error> {
    panic!("asked for a claim")
}

fn no_room() -> Result<(), Error> {
    Err(Error::new(Reason::ClaimRefused, "full"))
}

fn fault() -> Box<Fault> {
    Box::new(Fault { reason: "DRIVER_FAILED".into(), ..Fault::default() })
}

fn begun(book: &mut Book, stamp: Stamp) -> CancellationToken {
    match book.make(ID, stamp, room).unwrap() {
        Make::Start((), cancel) => cancel,
        other => panic!("{other:?}"),
    }
}

fn ready(stamp: Stamp) -> Book {
    let mut book = Book::default();
    begun(&mut book, stamp);
    assert!(book.made(ID, "guest", &[]).is_some());
    book
}

fn refusal<T: fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.unwrap_err().reason
}

#[test]
fn the_same_make_begins_once_and_is_told_its_end_again() {
    let mut book = Book::default();
    begun(&mut book, at(1, 1));
    assert!(matches!(book.make(ID, at(1, 1), no_claim), Ok(Make::Underway)));
    assert_eq!((book.busy(), book.live()), (1, 1));
    let first = book.made(ID, "guest", &[Step::default()]).unwrap();
    match book.make(ID, at(1, 1), no_claim).unwrap() {
        Make::Report(again) => assert_eq!(again, first),
        other => panic!("{other:?}"),
    }
    assert_eq!((book.busy(), book.live(), book.remembered()), (0, 1, 0));
}

#[test]
fn a_failed_make_is_not_tried_again_by_its_repetition_but_by_the_next_attempt() {
    let mut book = Book::default();
    begun(&mut book, at(1, 1));
    let failed = book.unmade(ID, Some(fault()), Vec::new());
    assert_eq!(failed.outcome, Outcome::Failed(fault()));
    match book.make(ID, at(1, 1), no_claim).unwrap() {
        Make::Report(again) => assert_eq!(again, failed),
        other => panic!("{other:?}"),
    }
    begun(&mut book, at(1, 2));
}

#[test]
fn an_older_command_is_refused() {
    let mut book = ready(at(2, 2));
    assert_eq!(refusal(book.make(ID, at(2, 1), no_claim)), Reason::StaleGeneration);
    assert_eq!(refusal(book.make(ID, at(1, 9), no_claim)), Reason::StaleGeneration);
    assert_eq!(refusal(book.unmake(ID, at(1, 9))), Reason::StaleGeneration);
    assert_eq!(refusal(book.unmake(ID, at(2, 1))), Reason::StaleGeneration);
    assert_eq!(book.view(ID).unwrap().outcome, Some(&Outcome::Ready("guest")));
}

#[test]
fn an_unmake_of_an_earlier_attempt_leaves_what_is_there_whatever_its_generation() {
    let mut book = ready(at(2, 3));
    let error = book.unmake(ID, at(9, 1)).unwrap_err();
    let told = |key: &str| error.metadata[key].clone();
    assert_eq!(
        (error.reason, told("attempt"), told(LATER_THERE)),
        (Reason::StaleGeneration, "3".into(), "true".into())
    );
    assert_eq!(book.view(ID).unwrap().outcome, Some(&Outcome::Ready("guest")));
    assert_eq!(ready(at(2, 3)).unmake(ID, at(9, 0)), Ok(Unmake::Start), "of whatever there is");
    assert_eq!(book.unmake(ID, at(9, 3)), Ok(Unmake::Start));
    book.unmade(ID, None, Vec::new());
    let error = book.unmake(ID, at(8, 1)).unwrap_err();
    assert_eq!(error.metadata[LATER_THERE], "false", "nothing is there, and the generation is older");
    assert!(matches!(book.unmake(ID, at(10, 1)), Ok(Unmake::Report(_))), "nothing is there");
}

#[test]
fn what_is_asked_of_an_earlier_attempt_than_what_is_there_is_not_done_whatever_its_generation() {
    let mut book = ready(at(2, 3));
    for error in [
        book.act(ID, at(9, 1), Kind::Stop, Reason::InstanceNotFound, || Ok(())).unwrap_err(),
        book.touch(ID, at(9, 1), Reason::InstanceNotFound).unwrap_err(),
    ] {
        assert_eq!((error.reason, error.metadata[LATER_THERE].as_str()), (Reason::StaleGeneration, "true"));
    }
    assert_eq!(book.view(ID).unwrap().stamp, at(2, 3));
    let older = book.unmake(ID, at(1, 3)).unwrap_err();
    assert_eq!(older.metadata[LATER_THERE], "true", "of an older generation, and it is there");
}

#[test]
fn a_make_that_arrives_after_its_unmake_is_refused() {
    for before in [None, Some(at(1, 1))] {
        let mut book = Book::default();
        if let Some(stamp) = before {
            begun(&mut book, stamp);
        }
        assert!(book.unmake(ID, at(1, 1)).is_ok());
        assert_eq!(refusal(book.make(ID, at(1, 1), no_claim)), Reason::StaleGeneration);
        book.unmade(ID, None, Vec::new());
        assert_eq!(refusal(book.make(ID, at(1, 1), no_claim)), Reason::StaleGeneration);
        assert_eq!(book.view(ID).unwrap().outcome, Some(&Outcome::Gone));
    }
}

#[test]
fn an_unmake_during_a_make_cancels_it_and_leaves_the_rest_to_it() {
    let mut book = Book::default();
    let cancel = begun(&mut book, at(1, 1));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Underway));
    assert!(cancel.is_cancelled() && book.overtaken(ID));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Underway));
    assert_eq!(book.made(ID, "guest", &[]), None);
    let end = book.unmade(ID, None, Vec::new());
    assert_eq!((end.stamp, end.outcome), (at(2, 1), Outcome::Gone));
}

#[test]
fn a_make_that_fails_after_it_was_overtaken_is_gone() {
    let mut book = Book::default();
    begun(&mut book, at(1, 1));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Underway));
    assert_eq!(book.unmade(ID, Some(fault()), Vec::new()).outcome, Outcome::Gone);
}

#[test]
fn what_is_there_is_unmade_once() {
    let mut book = ready(at(1, 1));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Start));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Underway));
    book.unmade(ID, None, Vec::new());
    assert!(matches!(book.unmake(ID, at(2, 1)), Ok(Unmake::Report(_))));
    match book.unmake(ID, at(3, 1)).unwrap() {
        Unmake::Report(end) => assert_eq!((end.stamp, end.outcome), (at(3, 1), Outcome::Gone)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nobody_knows_is_gone_once_the_driver_says_so() {
    let mut book = Book::default();
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Start));
    assert_eq!(book.unmake(ID, at(2, 1)), Ok(Unmake::Underway));
    let end = book.unmade(ID, None, Vec::new());
    assert_eq!((end.stamp, end.outcome), (at(2, 1), Outcome::Gone));
}

#[test]
fn a_refused_make_stays_refused_and_the_next_attempt_is_not() {
    let mut book = Book::default();
    assert_eq!(refusal(book.make(ID, at(1, 1), no_room)), Reason::ClaimRefused);
    assert_eq!(refusal(book.make(ID, at(1, 1), room)), Reason::ClaimRefused);
    assert_eq!(book.live(), 0);
    begun(&mut book, at(1, 2));
}

#[test]
fn a_refusal_while_stopping_or_not_ready_is_not_held_against_the_next() {
    let mut book = Book::default();
    for reason in [Reason::Draining, Reason::NotReady] {
        let not_now = || Err::<(), _>(Error::new(reason, "not now"));
        assert_eq!(refusal(book.make(ID, at(1, 1), not_now)), reason);
        assert!(book.view(ID).is_none());
    }
}

#[test]
fn a_newer_make_adopts_what_is_there() {
    let mut book = ready(at(1, 1));
    match book.make(ID, at(1, 3), no_claim).unwrap() {
        Make::Report(end) => assert_eq!((end.stamp, end.outcome), (at(1, 3), Outcome::Ready("guest"))),
        other => panic!("{other:?}"),
    }
    let mut book = Book::default();
    begun(&mut book, at(1, 1));
    assert!(matches!(book.make(ID, at(1, 2), no_claim), Ok(Make::Underway)));
    assert_eq!(book.made(ID, "guest", &[]).unwrap().stamp, at(1, 2));
}

#[test]
fn a_newer_make_while_unmaking_is_refused_for_good() {
    let mut book = ready(at(1, 1));
    assert_eq!(book.unmake(ID, at(1, 1)), Ok(Unmake::Start));
    assert_eq!(refusal(book.make(ID, at(1, 2), no_claim)), Reason::StillRemoving);
    assert_eq!(book.unmake(ID, at(1, 1)), Ok(Unmake::Underway), "the same unmake again is no older command");
    assert_eq!(book.unmade(ID, None, Vec::new()).stamp, at(1, 1), "the attempt refused is not what is gone");
    assert_eq!(refusal(book.make(ID, at(1, 2), no_claim)), Reason::StillRemoving);
    begun(&mut book, at(1, 3));
}

#[test]
fn a_make_at_another_generation_is_refused_until_what_is_there_is_unmade() {
    let mut restored = Book::default();
    restored.restore(ID, at(2, 1), "guest", Some(Kind::LiveMigrate));
    let mut acted = ready(at(1, 1));
    assert!(matches!(act(&mut acted, at(2, 1)), Ok(Act::Start(_))));
    let acting = {
        let mut book = ready(at(1, 1));
        assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))));
        book
    };
    acted.acted(ID, Ok("stopped"), Vec::new()).unwrap();
    for mut book in [ready(at(1, 1)), restored, acted, acting] {
        assert_eq!(refusal(book.make(ID, at(3, 4), no_claim)), Reason::OlderGenerationPresent);
        assert_eq!(refusal(book.make(ID, at(3, 4), no_claim)), Reason::OlderGenerationPresent);
        assert_eq!(refusal(book.make(ID, at(3, 3), no_claim)), Reason::StaleGeneration);
        assert!(book.unmake(ID, at(3, 1)).is_ok(), "the unmake that clears the way is of an earlier attempt");
        book.unmade(ID, None, Vec::new());
        assert_eq!(refusal(book.make(ID, at(3, 4), no_claim)), Reason::OlderGenerationPresent, "for good");
        begun(&mut book, at(3, 5));
    }
    let mut making = Book::default();
    begun(&mut making, at(1, 1));
    assert_eq!(refusal(making.make(ID, at(2, 2), no_claim)), Reason::OlderGenerationPresent);
    assert_eq!(making.made(ID, "guest", &[]).unwrap().stamp, at(1, 1));
}

#[test]
fn what_was_changed_at_a_generation_is_not_what_a_make_at_it_asks_for() {
    let mut book = ready(at(1, 1));
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))));
    book.acted(ID, Ok("handed over"), Vec::new()).unwrap();
    assert_eq!(refusal(book.make(ID, at(2, 2), no_claim)), Reason::OlderGenerationPresent);
    assert!(matches!(book.make(ID, at(2, 1), no_claim), Ok(Make::Report(_))), "the same command again");
}

#[test]
fn after_a_restart_what_is_there_is_adopted() {
    let mut book = Book::default();
    book.restore(ID, at(1, 1), "guest", None);
    assert_eq!(book.adopt(ID, at(1, 2)).unwrap().stamp, at(1, 2));
    assert_eq!(book.adopt(ID, at(1, 1)), None);
    assert_eq!(book.idle().into_iter().collect::<Vec<_>>(), [(ID, at(1, 2))]);
}

fn act(book: &mut Book, stamp: Stamp) -> Result<Act<&'static str>, Error> {
    book.act(ID, stamp, Kind::Stop, Reason::InstanceNotFound, room)
}

fn told_again(taken: Result<Act<&'static str>, Error>) -> Conclusion<&'static str> {
    match taken.unwrap() {
        Act::Report(end) => end,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_act_is_done_once_and_told_again() {
    let mut book = ready(at(1, 1));
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))));
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Underway)));
    assert_eq!((book.busy(), book.live()), (1, 1));
    let end = book.acted(ID, Ok("stopped"), vec![Step::default()]).unwrap();
    assert_eq!((end.stamp, &end.outcome), (at(2, 1), &Outcome::Ready("stopped")));
    assert_eq!(end.act, Some(Acted { kind: Kind::Stop, fault: None }));
    assert_eq!(told_again(act(&mut book, at(2, 1))), end);
    assert!(matches!(act(&mut book, at(3, 1)), Ok(Act::Start(_))), "a newer one is another");
}

#[test]
fn an_act_that_fails_leaves_what_was_there() {
    let mut book = ready(at(1, 1));
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))));
    let end = book.acted(ID, Err(fault()), Vec::new()).unwrap();
    assert_eq!(end.outcome, Outcome::Ready("guest"));
    assert_eq!(end.act.as_ref().unwrap().fault, Some(fault()));
    assert_eq!(told_again(act(&mut book, at(2, 1))), end, "its repetition does not try again");
}

#[test]
fn an_act_for_which_there_is_no_room_is_refused_for_good() {
    let mut book = ready(at(1, 1));
    let refused = book.act(ID, at(2, 1), Kind::Extend, Reason::VolumeNotFound, no_room);
    assert_eq!(refusal(refused), Reason::ClaimRefused);
    let again = told_again(book.act(ID, at(2, 1), Kind::Extend, Reason::VolumeNotFound, no_claim));
    assert_eq!(again.act.unwrap().fault.unwrap().reason, "CLAIM_REFUSED");
    assert!(book.act(ID, at(3, 1), Kind::Extend, Reason::VolumeNotFound, room).is_ok());
}

#[test]
fn an_act_needs_something_there_that_is_idle_and_no_newer_command() {
    let mut book = Book::default();
    assert_eq!(refusal(act(&mut book, at(2, 1))), Reason::InstanceNotFound);
    begun(&mut book, at(1, 1));
    assert_eq!(refusal(act(&mut book, at(2, 1))), Reason::InvalidState);
    book.made(ID, "guest", &[]).unwrap();
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))));
    assert_eq!(refusal(act(&mut book, at(3, 1))), Reason::InvalidState);
    assert_eq!(refusal(act(&mut book, at(1, 1))), Reason::StaleGeneration);
    book.acted(ID, Ok("stopped"), Vec::new()).unwrap();
    assert_eq!(refusal(book.make(ID, at(1, 1), no_claim)), Reason::StaleGeneration);
    assert!(book.unmake(ID, at(3, 1)).is_ok());
    assert_eq!(refusal(act(&mut book, at(3, 1))), Reason::InstanceNotFound);
}

#[test]
fn an_unmake_overtakes_an_act() {
    let mut book = ready(at(1, 1));
    let Ok(Act::Start(cancel)) = act(&mut book, at(2, 1)) else { panic!("it begins") };
    assert_eq!(book.unmake(ID, at(3, 1)), Ok(Unmake::Underway));
    assert!(cancel.is_cancelled());
    assert_eq!(book.acted(ID, Ok("stopped"), Vec::new()), None);
    let end = book.unmade(ID, None, Vec::new());
    assert_eq!((end.stamp, end.outcome), (at(3, 1), Outcome::Gone));
}

#[test]
fn a_touch_only_raises_the_stamp_of_what_is_there() {
    let mut book = ready(at(1, 1));
    let touch = |book: &mut Book, stamp| book.touch(ID, stamp, Reason::VolumeNotFound);
    assert!(touch(&mut book, at(3, 1)).is_ok());
    assert!(touch(&mut book, at(3, 1)).is_ok());
    assert_eq!(refusal(touch(&mut book, at(2, 1))), Reason::StaleGeneration);
    assert_eq!(book.view(ID).unwrap().outcome, Some(&Outcome::Ready("guest")));
    assert!(book.unmake(ID, at(4, 1)).is_ok());
    assert_eq!(refusal(touch(&mut book, at(5, 1))), Reason::VolumeNotFound);
    assert_eq!(refusal(Book::default().touch(8, at(1, 1), Reason::VolumeNotFound)), Reason::VolumeNotFound);
}

#[test]
fn an_act_that_was_done_before_a_restart_is_not_done_again() {
    let mut book = Book::default();
    book.restore(ID, at(2, 1), "stopped", Some(Kind::Stop));
    let end = told_again(act(&mut book, at(2, 1)));
    assert_eq!(end.act, Some(Acted { kind: Kind::Stop, fault: None }));
    let mut book = Book::default();
    book.restore(ID, at(2, 1), "guest", None);
    assert!(matches!(act(&mut book, at(2, 1)), Ok(Act::Start(_))), "only the build was done");
}

#[test]
fn what_ended_is_forgotten_in_order_and_never_without_bound() {
    let mut book = Book::default();
    let most = u32::try_from(REMEMBERED).unwrap();
    for id in 0..most + 2 {
        for (id, stamp) in [(id, at(1, 1)), (0, at(1 + u64::from(id), 1))] {
            if book.unmake(id, stamp) == Ok(Unmake::Start) {
                book.unmade(id, None, Vec::new());
            }
        }
    }
    assert_eq!(book.remembered(), REMEMBERED);
    assert!(book.view(0).is_some() && book.view(1).is_none() && book.view(2).is_none());
    assert!(book.view(3).is_some());
}
