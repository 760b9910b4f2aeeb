//! A question from the wire to the wire.

use crate::forward::Forwarder;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::zone::{Question, Reply, Verdict, Zone};
use async_trait::async_trait;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use minik_component::Chance;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What is larger is cut short over UDP, so that it is never sent in fragments.
const LARGEST_DATAGRAM: u16 = 1232;
/// How other names' zone is counted.
const OTHER_ZONE: &str = ".";

/// What questions are answered from.
pub struct Names {
    /// The cluster's zone.
    pub zone: Zone,
    /// What stands in it.
    pub index: RwLock<Index>,
    /// Whether all of it is known.
    pub synced: AtomicBool,
    /// Who knows other names.
    pub forwarder: Forwarder,
    /// Chance, for the order of addresses.
    pub chance: Arc<dyn Chance>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Names {
    /// Changes what stands in the zone.
    pub fn change(&self, change: impl FnOnce(&mut Index)) {
        // A change is complete before anything can panic.
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the zone says.
    fn verdict(&self, question: Question<'_>) -> Verdict {
        self.zone.answer(&self.index.read().unwrap_or_else(PoisonError::into_inner), question)
    }

    /// The answer to a question, and whether it is about the zone.
    async fn answer(&self, query: &Query, lower: &hickory_proto::rr::Name) -> (bool, Reply) {
        let question = Question { lower, written: query.name(), kind: query.query_type() };
        let verdict = self.verdict(question);
        if !matches!(verdict, Verdict::Elsewhere) && !self.synced.load(Ordering::Relaxed) {
            // What is not known yet may well be there.
            return (true, Reply::failure(ResponseCode::ServFail));
        }
        let (ours, mut reply) = match verdict {
            Verdict::Here(reply) => (true, reply),
            Verdict::Elsewhere => (false, Reply::from(self.forwarder.ask(query.clone()).await)),
            Verdict::Follow(aliases, target) => {
                let mut reply =
                    Reply::from(self.forwarder.ask(Query::query(target, query.query_type())).await);
                if reply.code == ResponseCode::NXDomain {
                    // The name that was asked for is there.
                    reply.code = ResponseCode::NoError;
                }
                reply.answers.splice(0..0, aliases);
                (true, reply)
            }
        };
        self.shuffle(&mut reply.answers);
        (ours, reply)
    }

    /// Puts addresses into an order of chance, so that clients that take the first share the load.
    fn shuffle(&self, answers: &mut [Record]) {
        let address = |record: &Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
        let first = answers.iter().position(address).unwrap_or(answers.len());
        let addresses = &mut answers[first..];
        if !addresses.iter().all(address) {
            return;
        }
        for at in (1..addresses.len()).rev() {
            addresses.swap(at, self.chance.below(at as u64 + 1) as usize);
        }
    }
}

impl From<Message> for Reply {
    fn from(message: Message) -> Reply {
        Reply {
            code: message.metadata.response_code,
            answers: message.answers,
            additionals: message.additionals,
            authorities: message.authorities,
        }
    }
}

/// Answers what the wire brings.
pub struct Handler(pub Arc<Names>);

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        responder: R,
    ) -> ResponseInfo {
        let began = tokio::time::Instant::now();
        let names = &self.0;
        let (zone, authoritative, reply) = match refusal(request) {
            Some(code) => (OTHER_ZONE.to_owned(), false, Reply::failure(code)),
            None => {
                let query = &request.queries.queries()[0];
                let (ours, reply) = names.answer(query.original(), query.name()).await;
                let zone = if ours { names.zone.domain().to_ascii() } else { OTHER_ZONE.to_owned() };
                names.metrics.asked(&zone, request.protocol(), request.src(), query.query_type());
                (zone, ours, reply)
            }
        };
        names.metrics.answered(&zone, reply.code, began.elapsed().as_secs_f64());
        send(request, responder, authoritative, &reply).await
    }
}

/// Why a request is not looked at.
fn refusal(request: &Request) -> Option<ResponseCode> {
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    match (request.metadata.op_code, request.queries.queries()) {
        (OpCode::Query, [query]) if query.query_class() == DNSClass::IN => None,
        (OpCode::Query, [_]) => Some(ResponseCode::Refused),
        (OpCode::Query, _) => Some(ResponseCode::FormErr),
        _ => Some(ResponseCode::NotImp),
    }
}

async fn send<R: ResponseHandler>(
    request: &Request,
    mut responder: R,
    authoritative: bool,
    reply: &Reply,
) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.authoritative = authoritative;
    metadata.recursion_available = true;
    metadata.response_code = reply.code;
    let mut edns = Edns::new();
    edns.set_max_payload(request.max_payload().clamp(512, LARGEST_DATAGRAM)).set_version(0);
    edns.set_rcode_high(reply.code.high());
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if request.edns.is_some() {
        builder.edns(&edns);
    }
    let response =
        builder.build(metadata, &reply.answers, &reply.authorities, std::iter::empty(), &reply.additionals);
    match responder.send_response(response).await {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(client = %request.src(), %error, "an answer was not sent");
            let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        }
    }
}
