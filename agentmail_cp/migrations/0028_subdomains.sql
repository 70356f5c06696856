-- The names below a domain (above) that the mail server was told of for an organisation's domain: written before
-- it is told, gone when they are another claim's, or let go with nobody on them. Bound to names, not to one claim:
-- who adds a domain again has its sub-domains back.
create table subdomain (
    organization_id uuid not null,
    above text not null,
    name text not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, above, name)
);
create index subdomain_name on subdomain (organization_id, name);
create index subdomain_backwards on subdomain (reverse(name) text_pattern_ops);

-- Until now they were guessed from the names inboxes stand on. An inbox was made on a sub-domain while the
-- organisation's nearest claim above it worked, with sub-domains enabled. The service's own domain may stand
-- below a claim, too: somebody had an inbox there without any claim, or before it.
with stood as (
    select organization_id, domain as name, string_to_array(domain, '.') as labels
    from inbox group by organization_id, domain
),
-- Every name that inboxes stand on, beside the claims at it and above it, of its organisation and of others.
claimed as (
    select stood.organization_id, stood.name, domain.name as above, domain.organization_id as whose,
        domain.created_at, domain.proved_at, domain.installed_at, domain.verified_at, domain.deleted_at,
        domain.updated_at, domain.subdomains_enabled
    from stood cross join generate_series(1, cardinality(labels) - 1) as start
    join domain on domain.name = array_to_string(labels[start:], '.')
),
made as (
    select inbox.organization_id, claimed.above, inbox.domain as name, min(inbox.created_at) as created_at
    from inbox join claimed on claimed.organization_id = inbox.organization_id
        and claimed.whose = inbox.organization_id and claimed.name = inbox.domain
    where claimed.above <> inbox.domain
        and (claimed.installed_at <= inbox.created_at
            or claimed.verified_at is not null and claimed.deleted_at is not null
                and inbox.created_at between claimed.created_at and claimed.deleted_at)
        -- Where they are turned off by now, that was a change that came after the inbox.
        and (claimed.subdomains_enabled or claimed.updated_at >= inbox.created_at)
        and not exists (select from claimed as nearer
            where nearer.organization_id = inbox.organization_id and nearer.name = inbox.domain
                and length(nearer.above) > length(claimed.above)
                and (nearer.whose = inbox.organization_id
                        and (nearer.proved_at is not null or nearer.verified_at is not null)
                    or nearer.installed_at is not null and claimed.proved_at is not null))
    group by inbox.organization_id, claimed.above, inbox.domain
),
not_claimed as (
    select distinct inbox.domain as name from inbox
    left join (
        select organization_id, name, min(created_at) as since from claimed
        where whose = organization_id group by organization_id, name
    ) as first on first.organization_id = inbox.organization_id and first.name = inbox.domain
    where first.since is null or first.since > inbox.created_at
)
insert into subdomain (organization_id, above, name, created_at)
select organization_id, above, name, created_at from made
where name not in (select name from not_claimed);
