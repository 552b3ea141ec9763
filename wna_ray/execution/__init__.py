"""Who does the work: plans, schedules, workers here or on Ray, and the one pipeline. The only room
that imports ray.

Public: `rounds` (Question, Round, Desk), `drive.drive`, `plan`, `scheduler`, `worker.Worker`,
`tasks`. May import: runs and what lies below.
"""
