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
with made as (
    select inbox.organization_id, domain.name as above, inbox.domain as name,
        min(inbox.created_at) as created_at
    from inbox join domain on domain.organization_id = inbox.organization_id
        and right(inbox.domain, length(domain.name) + 1) = '.' || domain.name
    where (domain.installed_at <= inbox.created_at
            or domain.verified_at is not null and domain.deleted_at is not null
                and inbox.created_at between domain.created_at and domain.deleted_at)
        -- Where they are turned off by now, that was a change that came after the inbox.
        and (domain.subdomains_enabled or domain.updated_at >= inbox.created_at)
        and not exists (select from domain as nearer
            where length(nearer.name) > length(domain.name)
                and (inbox.domain = nearer.name
                    or right(inbox.domain, length(nearer.name) + 1) = '.' || nearer.name)
                and (nearer.organization_id = inbox.organization_id
                        and (nearer.proved_at is not null or nearer.verified_at is not null)
                    or nearer.installed_at is not null and domain.proved_at is not null))
    group by inbox.organization_id, domain.name, inbox.domain
)
insert into subdomain (organization_id, above, name, created_at)
select organization_id, above, name, created_at from made
where not exists (select from inbox as earlier
    where reverse(earlier.domain) = reverse(made.name)
        and not exists (select from domain as claim
            where claim.organization_id = earlier.organization_id
                and claim.created_at <= earlier.created_at
                and (earlier.domain = claim.name
                    or right(earlier.domain, length(claim.name) + 1) = '.' || claim.name)));
