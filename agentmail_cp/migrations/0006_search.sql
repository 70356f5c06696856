-- What a search by substring reads: subject and addresses of each message, folded (highlights.fold). Narrow,
-- so that an inbox of 100,000 messages is read in some 40 ms, and apart from what changes with every label, so
-- that this costs nothing here. docs/adr/search.md says when an index on it pays.
create table envelope (
    organization_id uuid not null,
    inbox_id uuid not null,
    document_id bigint not null,
    subject text not null,
    people text not null,
    primary key (organization_id, inbox_id, document_id)
);

-- lower() stands in for fold here; reading an inbox from scratch writes the real thing.
insert into envelope (organization_id, inbox_id, document_id, subject, people)
select organization_id, inbox_id, document_id, lower(coalesce(subject, '')),
    lower(array_to_string(array[sender] || "to" || cc || bcc, E'\n'))
from message;
