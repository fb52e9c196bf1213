-- v8: Application services

-- How far each service has been sent what happens.
CREATE TABLE app_services (
    service_id  TEXT   PRIMARY KEY,
    -- everything up to it is in the transactions made so far
    position    BIGINT NOT NULL,
    -- number of the last transaction made
    number      BIGINT NOT NULL,
    -- that transaction, until the service has taken it
    body        bytea
);

-- Rooms that services list in the directories of their networks.
CREATE TABLE network_rooms (
    service_id TEXT NOT NULL,
    network_id TEXT NOT NULL,
    room_id    TEXT NOT NULL,
    PRIMARY KEY (service_id, network_id, room_id)
);
CREATE INDEX network_rooms_room ON network_rooms (room_id);
